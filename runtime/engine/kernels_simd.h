// Body of the SIMD twins, instantiated once per instruction set by kernels_{avx2,avx512,neon}.cpp. Everything
// here is a template of the vector type `V`, which lives in an anonymous namespace: no symbol is shared between files
// that are compiled with different flags.
//
// The matrix product keeps kTileM x kTileN vectors of outputs in registers; per step of k it loads kTileN vectors of
// the packed weights and broadcasts kTileM inputs, which leaves the two load ports with less to do than the two
// multipliers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/engine/kernel_table.h"

namespace nwc {

template <typename V>
struct SimdKernels {
  using Reg = typename V::Reg;
  static constexpr uint32_t W = V::kWidth;

  static Reg load_weights(const void* w, Dtype dtype, size_t at) {
    if (dtype == Dtype::kF32) return V::load(static_cast<const float*>(w) + at);
    if (dtype == Dtype::kF16) return V::load_f16(static_cast<const uint16_t*>(w) + at);
    return V::load_bf16(static_cast<const uint16_t*>(w) + at);
  }
  static Reg load_weights_part(const void* w, Dtype dtype, size_t at, uint32_t count) {
    if (dtype == Dtype::kF32) return V::load_part(static_cast<const float*>(w) + at, count);
    if (dtype == Dtype::kF16) return V::load_f16_part(static_cast<const uint16_t*>(w) + at, count);
    return V::load_bf16_part(static_cast<const uint16_t*>(w) + at, count);
  }

  /// W rows of up to W weights, of which `rows` exist.
  template <Dtype kDtype>
  static void load_block(const void* w, size_t at, size_t stride, uint32_t rows, uint32_t count, Reg* block) {
    for (uint32_t r = 0; r < W; ++r, at += stride) {
      block[r] = r >= rows    ? V::zero()
                 : count == W ? load_weights(w, kDtype, at)
                              : load_weights_part(w, kDtype, at, count);
    }
  }
  static void pack(const void* w, Dtype dtype, size_t stride, uint32_t rows, uint32_t cols, float* panel) {
    for (uint32_t r0 = 0; r0 < V::kPanelRows; r0 += W) {
      const uint32_t left = rows > r0 ? rows - r0 : 0;
      for (uint32_t c0 = 0; c0 < cols; c0 += W) {
        const uint32_t count = cols - c0 < W ? cols - c0 : W;
        const size_t at = r0 * stride + c0;
        Reg block[W];
        if (dtype == Dtype::kF32) {
          load_block<Dtype::kF32>(w, at, stride, left, count, block);
        } else if (dtype == Dtype::kF16) {
          load_block<Dtype::kF16>(w, at, stride, left, count, block);
        } else {
          load_block<Dtype::kBf16>(w, at, stride, left, count, block);
        }
        V::transpose(block);
        for (uint32_t c = 0; c < count; ++c) V::store(panel + size_t{c0 + c} * V::kPanelRows + r0, block[c]);
      }
    }
  }

  /// M rows of x times N vectors of p; the last vector has `last` valid elements (W: all).
  template <uint32_t M, uint32_t N, bool kPart>
  static void tile(uint32_t k, uint32_t last, const float* x, size_t ldx, const float* p, size_t ldp, float* y,
                   size_t ldy, bool accumulate) {
    const typename V::Mask mask = V::mask(last);
    Reg acc[M][N];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < M; ++i) {
#pragma GCC unroll 3
      for (uint32_t j = 0; j < N; ++j) {
        if (!accumulate) {
          acc[i][j] = V::zero();
        } else if (kPart && j == N - 1) {
          acc[i][j] = V::load_masked(y + i * ldy + j * W, mask);
        } else {
          acc[i][j] = V::load(y + i * ldy + j * W);
        }
      }
    }
    for (uint32_t kk = 0; kk < k; ++kk) {
      Reg b[N];
#pragma GCC unroll 3
      for (uint32_t j = 0; j < N; ++j) {
        b[j] = kPart && j == N - 1 ? V::load_masked(p + j * W, mask) : V::load(p + j * W);
      }
      p += ldp;
#pragma GCC unroll 8
      for (uint32_t i = 0; i < M; ++i) {
        const Reg a = V::broadcast(x + i * ldx + kk);
#pragma GCC unroll 3
        for (uint32_t j = 0; j < N; ++j) acc[i][j] = V::fma(a, b[j], acc[i][j]);
      }
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < M; ++i) {
#pragma GCC unroll 3
      for (uint32_t j = 0; j < N; ++j) {
        if (kPart && j == N - 1) {
          V::store_masked(y + i * ldy + j * W, acc[i][j], mask);
        } else {
          V::store(y + i * ldy + j * W, acc[i][j]);
        }
      }
    }
  }

  /// All of m, for N vectors of columns.
  template <uint32_t N, bool kPart>
  static void column_band(uint32_t m, uint32_t k, uint32_t last, const float* x, size_t ldx, const float* p, size_t ldp,
                          float* y, size_t ldy, bool accumulate) {
    constexpr uint32_t kM = V::kTileM;
    for (; m >= kM; m -= kM, x += kM * ldx, y += kM * ldy) {
      tile<kM, N, kPart>(k, last, x, ldx, p, ldp, y, ldy, accumulate);
    }
    if (m >= 4) {
      tile<4, N, kPart>(k, last, x, ldx, p, ldp, y, ldy, accumulate);
      m -= 4, x += 4 * ldx, y += 4 * ldy;
    }
    if (m >= 2) {
      tile<2, N, kPart>(k, last, x, ldx, p, ldp, y, ldy, accumulate);
      m -= 2, x += 2 * ldx, y += 2 * ldy;
    }
    if (m == 1) tile<1, N, kPart>(k, last, x, ldx, p, ldp, y, ldy, accumulate);
  }

  template <uint32_t N, typename... Args>
  static void column_bands(bool part, Args... args) {
    if constexpr (!V::kFreeMasks) {
      if (!part) return column_band<N, false>(args...);
    }
    column_band<N, true>(args...);
  }

  static void gemm(uint32_t m, uint32_t k, uint32_t n, const float* x, size_t ldx, const float* p, size_t ldp, float* y,
                   size_t ldy, bool accumulate) {
    while (n != 0) {
      const uint32_t vectors = (n + W - 1) / W;
      // Four vectors go as two and two: one alone would starve the multipliers.
      const uint32_t take = V::kTileN == 3 && vectors == 4 ? 2 : vectors < V::kTileN ? vectors : V::kTileN;
      const uint32_t width = take * W < n ? take * W : n;
      const uint32_t last = width - (take - 1) * W;
      const bool part = V::kFreeMasks || last != W;
      if (take == 1) {
        column_bands<1>(part, m, k, last, x, ldx, p, ldp, y, ldy, accumulate);
      } else if (take == 2) {
        column_bands<2>(part, m, k, last, x, ldx, p, ldp, y, ldy, accumulate);
      } else if constexpr (V::kTileN == 3) {
        column_bands<3>(part, m, k, last, x, ldx, p, ldp, y, ldy, accumulate);
      }
      p += width;
      y += width;
      n -= width;
    }
  }

  /// Rows one after another: the weights are one stream through memory, which processors fetch ahead by themselves.
  /// Four rows in turns are four short streams, which they do not (5 instead of 12 Gweight/s at 576 columns). Several
  /// sums a row keep the multipliers busy.
  template <Dtype kDtype>
  static void gemv_rows(const void* w, uint32_t rows, uint32_t cols, const float* x, float* y) {
    constexpr uint32_t kSums = W >= 16 ? 4 : 8;
    size_t at = 0;
    for (uint32_t r = 0; r < rows; ++r, at += cols) {
      Reg acc[kSums];
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kSums; ++i) acc[i] = V::zero();
      uint32_t c = 0;
      for (; c + kSums * W <= cols; c += kSums * W) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < kSums; ++i) {
          acc[i] = V::fma(load_weights(w, kDtype, at + c + i * W), V::load(x + c + i * W), acc[i]);
        }
      }
      for (; c + W <= cols; c += W) acc[0] = V::fma(load_weights(w, kDtype, at + c), V::load(x + c), acc[0]);
      if (c < cols) {
        acc[1] = V::fma(load_weights_part(w, kDtype, at + c, cols - c), V::load_part(x + c, cols - c), acc[1]);
      }
#pragma GCC unroll 3
      for (uint32_t n = kSums / 2; n != 0; n /= 2) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; ++i) acc[i] = V::add(acc[i], acc[i + n]);
      }
      y[r] = V::sum(acc[0]);
    }
  }
  /// Eight rows in turns. A row's sum does not depend on the rows beside it: missing ones at the end are the last
  /// again.
  template <Dtype kDtype>
  static void gemv_wide(const void* w, uint32_t rows, uint32_t cols, const float* x, float* y) {
    constexpr uint32_t kRows = 8;
    const uint32_t full = cols / W * W;
    for (uint32_t r = 0; r < rows; r += kRows) {
      const uint32_t count = rows - r < kRows ? rows - r : kRows;
      size_t at[kRows];
      Reg acc[kRows];
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kRows; ++i) {
        at[i] = size_t{r + (i < count ? i : count - 1)} * cols;
        acc[i] = V::zero();
      }
      for (uint32_t c = 0; c < full; c += W) {
        const Reg xv = V::load(x + c);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < kRows; ++i) acc[i] = V::fma(load_weights(w, kDtype, at[i] + c), xv, acc[i]);
      }
      if (full != cols) {
        const Reg xv = V::load_part(x + full, cols - full);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < kRows; ++i) {
          acc[i] = V::fma(load_weights_part(w, kDtype, at[i] + full, cols - full), xv, acc[i]);
        }
      }
      for (uint32_t i = 0; i < count; ++i) y[r + i] = V::sum(acc[i]);
    }
  }
  template <Dtype kDtype>
  static void gemv_typed(const void* w, uint32_t rows, uint32_t cols, const float* x, float* y) {
    // Inputs that fill more than half of a first-level cache of 32 KiB are read once for eight rows.
    constexpr uint32_t kWide = 4096;
    if (cols <= kWide) return gemv_rows<kDtype>(w, rows, cols, x, y);
    gemv_wide<kDtype>(w, rows, cols, x, y);
  }
  static void gemv(const void* w, Dtype dtype, uint32_t rows, uint32_t cols, const float* x, float* y) {
    if (dtype == Dtype::kF32) return gemv_typed<Dtype::kF32>(w, rows, cols, x, y);
    if (dtype == Dtype::kF16) return gemv_typed<Dtype::kF16>(w, rows, cols, x, y);
    gemv_typed<Dtype::kBf16>(w, rows, cols, x, y);
  }

  static float sum_squares(const float* x, uint32_t n) {
    Reg acc = V::zero();
    uint32_t i = 0;
    for (; i + W <= n; i += W) {
      const Reg v = V::load(x + i);
      acc = V::fma(v, v, acc);
    }
    if (i < n) {
      const Reg v = V::load_part(x + i, n - i);
      acc = V::fma(v, v, acc);
    }
    return V::sum(acc);
  }

  /// exp(x) for x in [-87, 88], values outside are moved to the nearer end. x = n ln 2 + r, |r| <= ln 2 / 2, Taylor
  /// polynomial of degree 7 in r (the first term left out is below 2^-27), times 2^n through the exponent field.
  static Reg exp(Reg x) {
    x = V::min(V::max(x, V::set(-87.0f)), V::set(88.0f));
    const Reg n = V::round(V::mul(x, V::set(1.44269504f)));
    Reg r = V::fma(n, V::set(-0x1.62e4p-1f), x);  // ln 2 in two parts; n * the first one is exact
    r = V::fma(n, V::set(-0x1.7f7d1cp-20f), r);
    Reg p = V::set(1.0f / 5040);
    p = V::fma(p, r, V::set(1.0f / 720));
    p = V::fma(p, r, V::set(1.0f / 120));
    p = V::fma(p, r, V::set(1.0f / 24));
    p = V::fma(p, r, V::set(1.0f / 6));
    p = V::fma(p, r, V::set(0.5f));
    p = V::fma(p, r, V::set(1.0f));
    p = V::fma(p, r, V::set(1.0f));
    return V::scale_by_power(p, n);
  }

  static void softmax(float* row, uint32_t n, float scale) {
    const uint32_t full = n / W * W;
    const uint32_t part = n - full;
    float largest = row[0];
    if (full != 0) {
      Reg m = V::load(row);
      for (uint32_t i = W; i < full; i += W) m = V::max(m, V::load(row + i));
      largest = V::largest(m);
    }
    for (uint32_t i = full; i < n; ++i) largest = row[i] > largest ? row[i] : largest;
    const Reg s = V::set(scale);
    const Reg m = V::set(largest);
    Reg total = V::zero();
    for (uint32_t i = 0; i < full; i += W) {
      const Reg e = exp(V::mul(s, V::sub(V::load(row + i), m)));
      total = V::add(total, e);
      V::store(row + i, e);
    }
    if (part != 0) {
      const typename V::Mask mask = V::mask(part);
      V::store_masked(row + full, exp(V::mul(s, V::sub(V::load_masked(row + full, mask), m))), mask);
      total = V::add(total, V::load_masked(row + full, mask));
    }
    const Reg inverse = V::set(1.0f / V::sum(total));
    for (uint32_t i = 0; i < full; i += W) V::store(row + i, V::mul(V::load(row + i), inverse));
    if (part != 0) {
      const typename V::Mask mask = V::mask(part);
      V::store_masked(row + full, V::mul(V::load_masked(row + full, mask), inverse), mask);
    }
  }

  static Reg sigmoid_gated(Reg x, Reg a, Reg b) {
    // Bounded, so that b = 0 stays 0.
    const Reg z = V::mul(x, V::fma(b, V::min(V::mul(x, x), V::set(1e30f)), a));
    return V::div(x, V::add(V::set(1.0f), exp(V::sub(V::zero(), z))));
  }
  static void sigmoid_gate(float* x, const float* up, uint32_t n, float a, float b) {
    const Reg va = V::set(a), vb = V::set(b);
    uint32_t i = 0;
    for (; i + W <= n; i += W) {
      const Reg g = sigmoid_gated(V::load(x + i), va, vb);
      V::store(x + i, up != nullptr ? V::mul(g, V::load(up + i)) : g);
    }
    if (i < n) {
      const typename V::Mask mask = V::mask(n - i);
      const Reg g = sigmoid_gated(V::load_masked(x + i, mask), va, vb);
      V::store_masked(x + i, up != nullptr ? V::mul(g, V::load_masked(up + i, mask)) : g, mask);
    }
  }

  static void widen_f16(const uint16_t* in, float* out, uint32_t n) {
    uint32_t i = 0;
    for (; i + W <= n; i += W) V::store(out + i, V::load_f16(in + i));
    if (i < n) V::store_masked(out + i, V::load_f16_part(in + i, n - i), V::mask(n - i));
  }
  static void narrow_f16(const float* in, uint16_t* out, uint32_t n) {
    uint32_t i = 0;
    for (; i + W <= n; i += W) V::store_f16(out + i, V::load(in + i));
    if (i < n) V::store_f16_part(out + i, V::load_part(in + i, n - i), n - i);
  }

  static constexpr KernelTable table() {
    return {V::kPanelRows, pack, gemm, gemv, sum_squares, softmax, sigmoid_gate, widen_f16, narrow_f16};
  }
};

}  // namespace nwc
