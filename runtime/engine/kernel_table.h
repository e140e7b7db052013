// The arithmetic of the forward pass, one table of functions per instruction set. The scalar table is the reference;
// its twins add in another order, so they agree within rounding, and each is deterministic by itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/cpu_features.h"
#include "runtime/format/dtype.h"

namespace nwc {

/// Plain pointers: the per-instruction-set files must not instantiate inline functions that other files also use, or
/// the linker might pick the copy that needs AVX-512.
struct KernelTable {
  uint32_t panel_rows;  ///< rows of weights that pack() lays side by side; at most kMaxPanelRows

  /// panel[cols][panel_rows] = transpose of w[rows][cols] in f32; rows beyond `rows` are zero.
  /// w is kF32, kF16 or kBf16 with `stride` elements from row to row.
  void (*pack)(const void* w, Dtype dtype, size_t stride, uint32_t rows, uint32_t cols, float* panel);

  /// y[m][n] = (accumulate ? y : 0) + x[m][k] * p[k][n]; ldx, ldp, ldy are the strides of their rows.
  /// Every output is one chain of fused multiply-adds in order of k, whatever m and n are.
  void (*gemm)(uint32_t m, uint32_t k, uint32_t n, const float* x, size_t ldx, const float* p, size_t ldp, float* y,
               size_t ldy, bool accumulate);

  /// y[rows] = w[rows][cols] * x[cols], rows of w contiguous. A row's result does not depend on the others of a call.
  void (*gemv)(const void* w, Dtype dtype, uint32_t rows, uint32_t cols, const float* x, float* y);

  float (*sum_squares)(const float* x, uint32_t n);
  /// row[n] = softmax(scale * row[n]), n > 0, scale > 0.
  void (*softmax)(float* row, uint32_t n, float scale);
  /// x[i] *= sigmoid(x[i] (a + b x[i]^2)) * up[i]; without `up`, times 1. SiLU: a 1, b 0.
  void (*sigmoid_gate)(float* x, const float* up, uint32_t n, float a, float b);
  void (*widen_f16)(const uint16_t* in, float* out, uint32_t n);
  void (*narrow_f16)(const float* in, uint16_t* out, uint32_t n);
};
inline constexpr uint32_t kMaxPanelRows = 48;

/// The table of the best level up to `level` that this build has.
const KernelTable& kernel_table(CpuLevel level);

extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#endif

}  // namespace nwc
