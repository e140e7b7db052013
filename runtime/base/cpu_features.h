// The levels of SIMD kernels, and the highest one that a machine can run.
#pragma once

#include <cstdint>

namespace nwc {

/// Ordered: a machine that can run one level can run every lower one of its architecture.
enum class CpuLevel : uint8_t { kScalar = 0, kNeon = 1, kAvx2 = 2, kAvx512 = 3 };

/// The levels of the architecture that this build is for, ascending.
#if defined(__x86_64__)
inline constexpr CpuLevel kCpuLevels[] = {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512};
#elif defined(__aarch64__)
inline constexpr CpuLevel kCpuLevels[] = {CpuLevel::kScalar, CpuLevel::kNeon};
#else
inline constexpr CpuLevel kCpuLevels[] = {CpuLevel::kScalar};
#endif

/// kAvx2 means AVX2, FMA, F16C and BMI; kAvx512 means F, BW, DQ, VL and CD on top; kNeon means any AArch64 processor.
/// Environment variable NWC_CPU=scalar|avx2|avx512|neon lowers the answer (for tests and studies); it never raises it.
CpuLevel detect_cpu_level();
/// Whether the machine, if it runs kAvx512, has VBMI2, too: since Ice Lake and Zen 4.
bool detect_vbmi2();
/// The same of dot products of bytes, AVX512_VNNI.
bool detect_vnni();
const char* cpu_level_name(CpuLevel level);

}  // namespace nwc
