#include <zlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>

#include "runtime/base/os.h"
#include "runtime/format/container.h"
#include "runtime/format/crc32_armv8.h"
#include "runtime/format/crc32_pclmul.h"

namespace nwc {
namespace {

uint32_t crc32_zlib(Bytes bytes, uint32_t seed) {
  uLong crc = seed;
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min<size_t>(bytes.size() - at, size_t{1} << 30);
    crc = ::crc32(crc, bytes.data() + at, static_cast<uInt>(n));
    at += n;
  }
  return static_cast<uint32_t>(crc);
}

#if defined(__x86_64__)
bool has_pclmul() {
  uint32_t eax, ebx, ecx, edx;
  constexpr uint32_t kNeeded = 1u << 1 | 1u << 19;  // PCLMULQDQ, SSE4.1
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kNeeded) == kNeeded;
}
#endif

}  // namespace

uint32_t crc32(Bytes bytes, uint32_t seed) {
#if defined(__x86_64__)
  constexpr size_t kBlock = 64;
  static const bool fast = has_pclmul();  // asked once: in a virtual machine CPUID takes microseconds
  if (fast && bytes.size() >= 4 * kBlock) {
    // zlib's CRC is the complement of the register.
    const size_t size = bytes.size() / kBlock * kBlock;
    uint8_t rest[16];
    crc32_fold_pclmul(bytes.data(), size, ~seed, rest);
    return crc32_zlib(bytes.subspan(size), crc32_zlib(rest, ~0u));
  }
#elif defined(__aarch64__)
  static const bool fast = os::has_arm_crc32();  // optional in ARMv8.0
  if (fast) return crc32_armv8(bytes.data(), bytes.size(), seed);
#endif
  return crc32_zlib(bytes, seed);
}

}  // namespace nwc
