// The steps of the forward pass, parallel through a Runner: each output is computed by one thread in a fixed order, so
// results do not depend on the number of threads.
#pragma once

#include <span>

#include "runtime/base/thread_pool.h"
#include "runtime/engine/kernel_table.h"
#include "runtime/format/block_spec.h"

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

/// Rows of activations that lie in groups: row r is number r % group of group r / group.
struct RowsView {
  float* data = nullptr;
  size_t stride = 0;  ///< floats from row to row within a group
  uint32_t group = 1;
  size_t group_stride = 0;  ///< floats from group to group
  float* row(uint32_t r) const { return data + r / group * group_stride + r % group * stride; }
};
inline RowsView rows_of(float* data, size_t stride) { return {data, 0, 1, stride}; }

struct NormParams {
  NormKind kind = NormKind::kRms;
  float eps = 0;
  const float* gain = nullptr;
  const float* bias = nullptr;  ///< kLayer; may be nullptr
};

/// out = norm(in), n numbers a row; `in` may be `out`.
void norm_rows(const KernelTable& kernels, Runner& runner, uint32_t rows, uint32_t n, const NormParams& norm,
               const RowsView& in, const RowsView& out);

/// x[t][n] += scale * y[t][n].
void add_rows(Runner& runner, uint32_t tokens, uint32_t n, float scale, float* x, const float* y);

/// x[t][n] *= scale[n].
void scale_rows(Runner& runner, uint32_t tokens, uint32_t n, const float* scale, float* x);

/// x[t][n] += bias[n].
void add_bias(Runner& runner, uint32_t tokens, uint32_t n, const float* bias, float* x, size_t stride);

/// As the block's MLP does. Gated: x[t][2 n] holds gate, then up, and its first half becomes activation(gate) * up,
/// both clamped before. Else x[t][n] in place.
void activate(const KernelTable& kernels, Runner& runner, uint32_t tokens, uint32_t n, const BlockSpec& block,
              float* x);

/// x = softcap * tanh(scale * x / softcap); a softcap of 0 leaves out the cap.
void cap_logits(float scale, float softcap, float* x, size_t n);

}  // namespace nwc
