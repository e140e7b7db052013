// Which SIMD twin a machine can run.
#pragma once

#include <cstdint>

namespace nwc {

/// Ordered: a machine that can run one level can run every lower one.
enum class CpuLevel : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

/// kAvx2 means AVX2, FMA, F16C and BMI; kAvx512 means F, BW, DQ, VL and CD on top. Environment variable
/// NWC_CPU=scalar|avx2|avx512 lowers the answer (for tests and studies); it never raises it.
CpuLevel detect_cpu_level();
const char* cpu_level_name(CpuLevel level);

}  // namespace nwc
