// CRC-32 eight bytes an instruction. Compiled for the CRC extension, entered only where the machine has it; hence no
// library code in here.
#include "runtime/format/crc32_armv8.h"

#if defined(__aarch64__)
#include <arm_acle.h>

namespace nwc {

uint32_t crc32_armv8(const uint8_t* p, size_t size, uint32_t seed) {
  uint32_t crc = ~seed;
  for (; size >= sizeof(uint64_t); p += sizeof(uint64_t), size -= sizeof(uint64_t)) {
    uint64_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    crc = __crc32d(crc, bytes);
  }
  for (; size != 0; ++p, --size) crc = __crc32b(crc, *p);
  return ~crc;
}

}  // namespace nwc
#endif
