#include "runtime/engine/kernels_cpu.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/checked.h"
#include "runtime/base/half.h"

namespace nwc {
namespace {

constexpr uint32_t kScalarPanelRows = 16;

float weight_at(const void* w, Dtype dtype, size_t at) {
  if (dtype == Dtype::kF32) return static_cast<const float*>(w)[at];
  const uint16_t h = static_cast<const uint16_t*>(w)[at];
  return dtype == Dtype::kF16 ? f16_to_f32(h) : bf16_to_f32(h);
}

void pack(const void* w, Dtype dtype, size_t stride, uint32_t rows, uint32_t cols, float* panel) {
  for (uint32_t c = 0; c < cols; ++c) {
    for (uint32_t r = 0; r < kScalarPanelRows; ++r) {
      panel[size_t{c} * kScalarPanelRows + r] = r < rows ? weight_at(w, dtype, r * stride + c) : 0.0f;
    }
  }
}

void gemm(uint32_t m, uint32_t k, uint32_t n, const float* x, size_t ldx, const float* p, size_t ldp, float* y,
          size_t ldy, bool accumulate) {
  for (uint32_t i = 0; i < m; ++i) {
    float* out = y + i * ldy;
    if (!accumulate) std::fill_n(out, n, 0.0f);
    for (uint32_t kk = 0; kk < k; ++kk) {
      const float a = x[i * ldx + kk];
      for (uint32_t j = 0; j < n; ++j) out[j] += a * p[kk * ldp + j];
    }
  }
}

void gemv(const void* w, Dtype dtype, uint32_t rows, uint32_t cols, const float* x, float* y) {
  for (uint32_t r = 0; r < rows; ++r) {
    float sum = 0;
    for (uint32_t c = 0; c < cols; ++c) sum += weight_at(w, dtype, size_t{r} * cols + c) * x[c];
    y[r] = sum;
  }
}

float sum_squares(const float* x, uint32_t n) {
  float sum = 0;
  for (uint32_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void softmax(float* row, uint32_t n, float scale) {
  const float largest = *std::max_element(row, row + n);
  float sum = 0;
  for (uint32_t i = 0; i < n; ++i) {
    row[i] = std::exp(scale * (row[i] - largest));
    sum += row[i];
  }
  const float inverse = 1.0f / sum;
  for (uint32_t i = 0; i < n; ++i) row[i] *= inverse;
}

void sigmoid_gate(float* x, const float* up, uint32_t n, float a, float b) {
  for (uint32_t i = 0; i < n; ++i) {
    const float z = x[i] * (a + b * std::min(x[i] * x[i], 1e30f));
    x[i] = x[i] / (1.0f + std::exp(-z)) * (up != nullptr ? up[i] : 1.0f);
  }
}

void widen_f16(const uint16_t* in, float* out, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) out[i] = f16_to_f32(in[i]);
}
void narrow_f16(const float* in, uint16_t* out, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) out[i] = f32_to_f16(in[i]);
}

}  // namespace

const KernelTable kScalarKernels = {kScalarPanelRows, pack,         gemm,      gemv,      sum_squares,
                                    softmax,          sigmoid_gate, widen_f16, narrow_f16};

const KernelTable& kernel_table(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512) return kAvx512Kernels;
  if (level == CpuLevel::kAvx2) return kAvx2Kernels;
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeon) return kNeonKernels;
#endif
  static_cast<void>(level);
  return kScalarKernels;
}

void matmul(const KernelTable& kernels, Runner& runner, uint32_t tokens, const float* x, size_t ldx,
            const WeightView& w, float* y, size_t ldy, float* scratch) {
  // Few tokens: packing would cost more than it saves, every weight is used once per token as it lies.
  constexpr uint32_t kFewTokens = 3;
  if (tokens <= kFewTokens) {
    // Some microseconds per task: handing it out costs little in comparison, and small matrices go to all threads
    // alike.
    const uint32_t rows_per_task = static_cast<uint32_t>(std::max<uint64_t>(8, ceil_div(1u << 15, w.cols)));
    const size_t row_bytes = size_t{w.cols} * dtype_size(w.dtype);
    parallel_for(runner, static_cast<uint32_t>(ceil_div(w.rows, rows_per_task)), [&](uint32_t task, uint32_t) {
      const uint32_t begin = task * rows_per_task;
      const uint32_t rows = std::min(rows_per_task, w.rows - begin);
      for (uint32_t t = 0; t < tokens; ++t) {
        kernels.gemv(static_cast<const uint8_t*>(w.data) + begin * row_bytes, w.dtype, rows, w.cols, x + t * ldx,
                     y + t * ldy + begin);
      }
    });
    return;
  }
  parallel_for(runner, static_cast<uint32_t>(ceil_div(w.rows, kernels.panel_rows)),
               [&](uint32_t task, uint32_t worker) {
                 float* panel = scratch + worker * kMatmulScratch;
                 const uint32_t begin = task * kernels.panel_rows;
                 const uint32_t rows = std::min(kernels.panel_rows, w.rows - begin);
                 for (uint32_t col = 0; col < w.cols; col += kPackCols) {
                   const uint32_t cols = std::min(kPackCols, w.cols - col);
                   const size_t at = size_t{begin} * w.cols + col;
                   kernels.pack(static_cast<const uint8_t*>(w.data) + at * dtype_size(w.dtype), w.dtype, w.cols, rows,
                                cols, panel);
                   kernels.gemm(tokens, cols, rows, x + col, ldx, panel, kernels.panel_rows, y + begin, ldy, col != 0);
                 }
               });
}

namespace {
/// Rows of a batch per task of the element-wise steps.
constexpr uint32_t kRowsPerTask = 16;

template <typename F>
void for_rows(Runner& runner, uint32_t tokens, const F& f) {
  parallel_for(runner, static_cast<uint32_t>(ceil_div(tokens, kRowsPerTask)), [&](uint32_t task, uint32_t) {
    const uint32_t end = std::min(tokens, (task + 1) * kRowsPerTask);
    for (uint32_t t = task * kRowsPerTask; t < end; ++t) f(t);
  });
}
}  // namespace

void norm_rows(const KernelTable& kernels, Runner& runner, uint32_t rows, uint32_t n, const NormParams& norm,
               const RowsView& in, const RowsView& out) {
  for_rows(runner, rows, [&](uint32_t t) {
    const float* x = in.row(t);
    float* y = out.row(t);
    if (norm.kind == NormKind::kRms) {
      const float inverse = 1.0f / std::sqrt(kernels.sum_squares(x, n) / static_cast<float>(n) + norm.eps);
      for (uint32_t i = 0; i < n; ++i) y[i] = x[i] * inverse * norm.gain[i];
      return;
    }
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
    const double mean = sum / n;
    for (uint32_t i = 0; i < n; ++i) squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
    const float center = static_cast<float>(mean);
    const float inverse = static_cast<float>(1.0 / std::sqrt(squares / n + static_cast<double>(norm.eps)));
    for (uint32_t i = 0; i < n; ++i) {
      y[i] = (x[i] - center) * inverse * norm.gain[i] + (norm.bias != nullptr ? norm.bias[i] : 0.0f);
    }
  });
}

void add_rows(Runner& runner, uint32_t tokens, uint32_t n, float scale, float* x, const float* y) {
  for_rows(runner, tokens, [&](uint32_t t) {
    float* out = x + size_t{t} * n;
    const float* in = y + size_t{t} * n;
    if (scale == 1) {
      for (uint32_t i = 0; i < n; ++i) out[i] += in[i];
    } else {
      for (uint32_t i = 0; i < n; ++i) out[i] += scale * in[i];
    }
  });
}

void scale_rows(Runner& runner, uint32_t tokens, uint32_t n, const float* scale, float* x) {
  parallel_for(runner, tokens, [&](uint32_t t, uint32_t) {
    float* row = x + size_t{t} * n;
    for (uint32_t i = 0; i < n; ++i) row[i] *= scale[i];
  });
}

void add_bias(Runner& runner, uint32_t tokens, uint32_t n, const float* bias, float* x, size_t stride) {
  for_rows(runner, tokens, [&](uint32_t t) {
    float* out = x + size_t{t} * stride;
    for (uint32_t i = 0; i < n; ++i) out[i] += bias[i];
  });
}

void activate(const KernelTable& kernels, Runner& runner, uint32_t tokens, uint32_t n, const BlockSpec& block,
              float* x) {
  const bool gated = block.gated;
  // GELU by tanh is x sigmoid(2 z) with z = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
  constexpr float kTwoSqrtTwoOverPi = 1.5957691216f;
  for_rows(runner, tokens, [&](uint32_t t) {
    float* row = x + size_t{t} * (gated ? 2 : 1) * n;
    float* const up = gated ? row + n : nullptr;
    if (gated && block.clamp != 0) {
      for (uint32_t i = 0; i < n; ++i) row[i] = std::min(row[i], block.clamp);
      for (uint32_t i = 0; i < n; ++i) up[i] = std::clamp(up[i], -block.clamp, block.clamp);
    }
    if (gated && block.up_plus_one) {
      for (uint32_t i = 0; i < n; ++i) up[i] += 1;
    }
    const auto each = [&](auto&& f) {
      for (uint32_t i = 0; i < n; ++i) row[i] = f(row[i]) * (up != nullptr ? up[i] : 1.0f);
    };
    switch (block.activation) {
      case MlpActivation::kSilu: kernels.sigmoid_gate(row, up, n, 1, 0); break;
      case MlpActivation::kQuickGelu: kernels.sigmoid_gate(row, up, n, 1.702f, 0); break;
      case MlpActivation::kGeluTanh:
        kernels.sigmoid_gate(row, up, n, kTwoSqrtTwoOverPi, kTwoSqrtTwoOverPi * 0.044715f);
        break;
      case MlpActivation::kGelu: each([](float v) { return 0.5f * v * (1 + std::erf(v * 0.70710678f)); }); break;
      case MlpActivation::kRelu: each([](float v) { return std::max(v, 0.0f); }); break;
      case MlpActivation::kRelu2: each([](float v) { return v > 0 ? v * v : 0.0f; }); break;
    }
  });
}

void cap_logits(float scale, float softcap, float* x, size_t n) {
  if (scale != 1) {
    for (size_t i = 0; i < n; ++i) x[i] *= scale;
  }
  if (softcap != 0) {
    for (size_t i = 0; i < n; ++i) x[i] = softcap * std::tanh(x[i] / softcap);
  }
}

}  // namespace nwc
