// The steps of the forward pass, parallel through a Runner: each output is computed by one thread in a fixed order, so
// results do not depend on the number of threads.
#pragma once

#include <span>

#include "runtime/base/thread_pool.h"
#include "runtime/engine/kernel_table.h"

namespace nwc {

/// A weight matrix [rows][cols], row-major without gaps.
struct WeightView {
  const void* data = nullptr;
  Dtype dtype = Dtype::kF16;  ///< kF32, kF16 or kBf16
  uint32_t rows = 0, cols = 0;
};

/// Columns of weights that are packed at a time: a panel of 48 x 512 floats stays in the second-level cache while all
/// tokens pass by.
inline constexpr uint32_t kPackCols = 512;
/// Floats of scratch memory that matmul needs per worker.
inline constexpr size_t kMatmulScratch = size_t{kMaxPanelRows} * kPackCols;

/// y[t][w.rows] = x[t][w.cols] * w^T; ldx, ldy are strides in floats. scratch: kMatmulScratch floats per worker.
void matmul(const KernelTable& kernels, Runner& runner, uint32_t tokens, const float* x, size_t ldx,
            const WeightView& w, float* y, size_t ldy, float* scratch);

/// y[t][n] = x[t][n] / sqrt(mean(x[t]^2) + eps) * gain[n]; rows without gaps.
void rms_norm(const KernelTable& kernels, Runner& runner, uint32_t tokens, uint32_t n, const float* x,
              const float* gain, float eps, float* y);

/// x[t][n] += y[t][n].
void add_rows(Runner& runner, uint32_t tokens, uint32_t n, float* x, const float* y);

/// gate_up[t][2 n] holds gate, then up: its first half becomes silu(gate) * up.
void swiglu(const KernelTable& kernels, Runner& runner, uint32_t tokens, uint32_t n, float* gate_up);

}  // namespace nwc
