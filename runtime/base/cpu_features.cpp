#include "runtime/base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace nwc {
namespace {

#if defined(__x86_64__)
/// Does the system save these parts of the registers? (XCR0: bits 1 and 2 for SSE and AVX, 5 to 7 for AVX-512.)
bool system_saves(uint32_t mask) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}
#endif

// CPUID itself, not __builtin_cpu_supports: that brings a constructor which runs before main().
CpuLevel detect_hardware() {
#if defined(__x86_64__)
  uint32_t eax, ebx, ecx, edx;
  constexpr uint32_t kFma = 1u << 12, kPopcnt = 1u << 23, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kNeeded = kFma | kPopcnt | kOsxsave | kAvx | kF16c;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kNeeded) != kNeeded || !system_saves(0x06)) {
    return CpuLevel::kScalar;
  }
  constexpr uint32_t kLzcnt = 1u << 5;
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kLzcnt) == 0) return CpuLevel::kScalar;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return CpuLevel::kScalar;
  constexpr uint32_t kAvx2 = 1u << 3 | 1u << 5 | 1u << 8;  // with BMI1 and BMI2
  if ((ebx & kAvx2) != kAvx2) return CpuLevel::kScalar;
  constexpr uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;  // F, DQ, CD, BW, VL
  return (ebx & kAvx512) == kAvx512 && system_saves(0xe6) ? CpuLevel::kAvx512 : CpuLevel::kAvx2;
#elif defined(__aarch64__)
  return CpuLevel::kNeon;  // floating point and Advanced SIMD are part of the architecture's calling convention
#else
  return CpuLevel::kScalar;
#endif
}

// A bit of ECX of CPUID's leaf 7.
bool has_extension(uint32_t bit) {
#if defined(__x86_64__)
  uint32_t eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> bit & 1u) != 0;
#else
  static_cast<void>(bit);
  return false;
#endif
}

}  // namespace

bool detect_vbmi2() {
  static const bool hardware = has_extension(6);
  return hardware;
}

bool detect_vnni() {
  static const bool hardware = has_extension(11);
  return hardware;
}

const char* cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kScalar: return "scalar";
    case CpuLevel::kNeon: return "neon";
    case CpuLevel::kAvx2: return "avx2";
    case CpuLevel::kAvx512: return "avx512";
  }
  return "unknown";
}

CpuLevel detect_cpu_level() {
  static const CpuLevel hardware = detect_hardware();  // asked once: in a virtual machine CPUID takes microseconds
  if (const char* wish = std::getenv("NWC_CPU")) {
    for (const CpuLevel level : kCpuLevels)
      if (level < hardware && std::strcmp(wish, cpu_level_name(level)) == 0) return level;
  }
  return hardware;
}

}  // namespace nwc
