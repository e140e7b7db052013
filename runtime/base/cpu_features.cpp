#include "runtime/base/cpu_features.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace nwc {
namespace {

CpuLevel detect_hardware() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // Clang 14 cannot ask for f16c; every processor with AVX2 has it.
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (!avx2) return CpuLevel::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  return avx512 ? CpuLevel::kAvx512 : CpuLevel::kAvx2;
#else
  return CpuLevel::kScalar;
#endif
}

}  // namespace

const char* cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kScalar: return "scalar";
    case CpuLevel::kAvx2: return "avx2";
    case CpuLevel::kAvx512: return "avx512";
  }
  return "unknown";
}

CpuLevel detect_cpu_level() {
  const CpuLevel hardware = detect_hardware();
  if (const char* wish = std::getenv("NWC_CPU")) {
    for (CpuLevel level : {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512})
      if (level < hardware && std::strcmp(wish, cpu_level_name(level)) == 0) return level;
  }
  return hardware;
}

}  // namespace nwc
