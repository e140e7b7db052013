// Body of the SIMD twins of features_group_scalar, feature_product_scalar, synthesize_group_scalar and
// store_group_scalar, instantiated once per instruction set by synthesis_{avx2,avx512,neon}.cpp. Lanes are columns.
// Everything here is a template of the vector type `V`, which lives in an anonymous namespace: no symbol is shared
// between files that are compiled with different flags.
//
// A vector type gives `Reg` (kWidth floats), `Mask`, `Levels` (of kWidth columns), arithmetic, and:
//   multiply_add(sum, x, weights)   sum[r][h] += weights[r] * x[h], for kRows rows and two registers of columns
//   copy_sign(x, sign), keep(x, mask), fma_where(a, b, c, mask)   c + a * b where the mask is set, else c
//   embedding(e, stride, levels)    e[level] of each column
//   sum_each(x)                     the sums of the lanes of kWidth registers
//   store_weights<kDtype>(to, w, count)   kStoreRegs registers as that type, nothing behind `count`
// kRows divides a packed panel's rows; kChains is how many sums a product keeps going side by side.
#pragma once

#include <cstddef>

#include "runtime/codec/lane_kernels.h"

namespace nwc {

template <typename V>
struct SynthesisKernels {
  using Reg = typename V::Reg;
  using Row = float[kNumLanes];
  static constexpr uint32_t W = V::kWidth;
  static constexpr uint32_t kPanel = 8;  ///< rows of a packed panel

  /// out[o][lane] = sum_i m[o][i] * in[i][lane] + bias[o]; without bias the sum is added to out, or replaces it.
  template <bool kAdd = false>
  static void multiply(const float* m, const float* bias, const Row* in, uint32_t num_in, uint32_t num_out, Row* out) {
    constexpr uint32_t kRows = V::kRows;
    for (uint32_t o = 0; o < num_out; o += kRows) {
      const float* panel = m + size_t{o / kPanel} * num_in * kPanel + o % kPanel;
      for (uint32_t l = 0; l < kNumLanes; l += 2 * W) {
        Reg sum[kRows][2];
        for (uint32_t r = 0; r < kRows; ++r) {
          for (uint32_t h = 0; h < 2; ++h)
            sum[r][h] = bias != nullptr ? V::set(bias[o + r]) : kAdd ? V::load(&out[o + r][l + W * h]) : V::zero();
        }
        for (uint32_t i = 0; i < num_in; ++i) {
          const Reg x[2] = {V::load(&in[i][l]), V::load(&in[i][l + W])};
          V::multiply_add(sum, x, panel + size_t{i} * kPanel);
        }
        for (uint32_t r = 0; r < kRows; ++r) {
          for (uint32_t h = 0; h < 2; ++h) V::store(&out[o + r][l + W * h], sum[r][h]);
        }
      }
    }
  }

  template <bool kShrink>
  static void dequantize_with(const ColumnGroup& g, const LaneValues& q, Row* z) {
    for (uint32_t l = 0; l < kNumLanes; l += W) {
      const Reg step = V::load(&g.step[l]);
      const Reg shrink = V::load(&g.shrink[l]);
      for (uint32_t c = 0; c < kChunk; ++c) {
        Reg x = V::load_i16(&q.q[c][l]);
        if constexpr (kShrink) x = V::sub(x, V::keep(V::copy_sign(shrink, x), V::nonzero(x)));
        V::store(&z[c][l], V::mul(x, step));
      }
    }
  }
  static void dequantize(const ColumnGroup& g, const LaneValues& q, Row* z) {
    g.any_shrink ? dequantize_with<true>(g, q, z) : dequantize_with<false>(g, q, z);
  }

  /// e^x to a few units in the last place (Cody and Waite's reduction, Taylor's polynomial of degree 6).
  static Reg exponential(Reg x) {
    x = V::max(V::min(x, V::set(88.0f)), V::set(-87.0f));
    const Reg n = V::round(V::mul(x, V::set(1.44269504f)));
    Reg r = V::fnma(n, V::set(0.693359375f), x);
    r = V::fnma(n, V::set(-2.12194440e-4f), r);
    Reg p = V::set(1.0f / 720);
    constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (const float c : kTaylor) p = V::fma(p, r, V::set(c));
    return V::scale_by_power(p, n);
  }
  static Reg silu(Reg x) { return V::div(x, V::add(V::set(1.0f), exponential(V::sub(V::zero(), x)))); }

  /// u = (u - mean) / sqrt(var + 1e-5) * gain + bias over the w rows, for the columns from l on.
  static void normalise(const float* gain, const float* bias, uint32_t w, uint32_t l, Row* u) {
    const Reg over_w = V::set(1.0f / static_cast<float>(w));
    Reg sum = V::zero(), squares = V::zero();
    for (uint32_t i = 0; i < w; ++i) sum = V::add(sum, V::load(&u[i][l]));
    const Reg mean = V::mul(sum, over_w);
    for (uint32_t i = 0; i < w; ++i) {
      const Reg d = V::sub(V::load(&u[i][l]), mean);
      squares = V::fma(d, d, squares);
    }
    const Reg deviation = V::sqrt(V::fma(squares, over_w, V::set(1e-5f)));
    const Reg factor = V::div(V::set(1.0f), deviation);
    for (uint32_t i = 0; i < w; ++i) {
      const Reg d = V::mul(V::sub(V::load(&u[i][l]), mean), factor);
      V::store(&u[i][l], V::fma(d, V::set(gain[i]), V::set(bias[i])));
    }
  }

  /// h = (h + act(u)) * level embedding, for the columns from l on.
  static void activate(const SynthesisView& net, const float* e, const ColumnGroup& g, uint32_t l, const Row* u,
                       Row* x) {
    const typename V::Levels levels = V::load_levels(&g.level[l]);
    for (uint32_t i = 0; i < net.width; ++i) {
      Reg a = V::load(&u[i][l]);
      a = net.silu ? silu(a) : V::max(a, V::zero());
      a = V::add(a, V::load(&x[i][l]));
      V::store(&x[i][l], V::mul(a, V::embedding(e + size_t{i} * net.level_stride, net.level_stride, levels)));
    }
  }

  static void features(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
    const uint32_t w = net.width;
    Row* z = reinterpret_cast<Row*>(scratch);
    Row* x = z + kChunk;
    Row* u = x + w;
    dequantize(group, q, z);
    if (w == 0) return;
    // The input's map and the folded first block at once: u lies behind x.
    multiply(net.input_weight, net.input_bias, z, kChunk, net.num_blocks == 0 ? w : 2 * w, x);
    for (uint32_t b = 0; b < net.num_blocks; ++b) {
      const size_t at = size_t{b} * w;
      if (b != 0) multiply(net.block_weight + (at - w) * w, net.block_bias + at - w, x, w, w, u);
      for (uint32_t l = 0; l < kNumLanes; l += W) {
        if (net.layer_norm) normalise(net.norm_gain + at, net.norm_bias + at, w, l, u);
        activate(net, net.level_embedding + at * net.level_stride, group, l, u, x);
      }
    }
  }

  template <bool kShrink>
  static void accumulate_with(const ColumnGroup& g, const LaneValues& q, const FeatureSums& to) {
    constexpr uint32_t kRegs = kSumLanes / W;  // of sums
    const bool first = g.slot == 0;
    for (uint32_t c = 0; c < kChunk; ++c) {
      Reg z[2 * kRegs];
      for (uint32_t h = 0; h < 2 * kRegs; ++h) {
        z[h] = V::load_i16(&q.q[c][W * h]);
        if constexpr (kShrink) {
          const Reg shrink = V::copy_sign(V::load(&g.shrink[W * h]), z[h]);
          z[h] = V::sub(z[h], V::keep(shrink, V::nonzero(z[h])));
        }
      }
      for (uint32_t b = 0; b < to.batch; ++b) {
        const float* factor = to.factor + size_t{b} * kNumLanes;
        float* sums = to.sums + (size_t{b} * kChunk + c) * kNumLanes;
        for (uint32_t h = 0; h < kRegs; ++h) {
          const Reg before = first ? V::zero() : V::load(sums + W * h);
          const Reg half = V::fma(z[h], V::load(factor + W * h), before);
          V::store(sums + W * h, V::fma(z[kRegs + h], V::load(factor + W * (kRegs + h)), half));
        }
      }
    }
  }
  static void accumulate(const ColumnGroup& g, const LaneValues& q, const FeatureSums& to) {
    g.any_shrink ? accumulate_with<true>(g, q, to) : accumulate_with<false>(g, q, to);
  }

  static void product(const FeatureBlock& block, const float* matrix, float* out) {
    constexpr uint32_t kOut = kChunk / W;  // registers of y
    Reg y[V::kChains][kOut];
    for (uint32_t h = 0; h < kOut; ++h) {
      y[0][h] = V::load(out + W * h);
      for (uint32_t k = 1; k < V::kChains; ++k) y[k][h] = V::zero();
    }
    for (uint32_t i = 0; i < block.count; i += V::kFeatures) {
      Reg sum[V::kFeatures];
      for (Reg& s : sum) s = V::zero();
      for (uint32_t slot = 0; slot < block.slots; ++slot) {
        const float* feature = block.features + (size_t{slot} * block.count + i) * kNumLanes;
        for (uint32_t l = 0; l < kNumLanes; l += W) {
          const Reg factor = V::load(block.factor + slot * block.factor_stride + l);
          const typename V::Mask use = V::nonzero(factor);
          for (uint32_t r = 0; r < V::kFeatures; ++r)
            sum[r] = V::fma_where(V::load(feature + r * kNumLanes + l), factor, sum[r], use);
        }
      }
      for (uint32_t k = 0; k < V::kFeatures; k += W) {
        const Reg t = V::sum_each(sum + k);
        if (matrix == nullptr) {
          Reg& part = y[0][(i + k) / W];
          part = V::add(part, t);
          continue;
        }
        alignas(64) float f[W];
        V::store(f, t);
        for (uint32_t r = 0; r < W; ++r, matrix += kChunk) {
          for (uint32_t h = 0; h < kOut; ++h) {
            Reg& part = y[r % V::kChains][h];
            part = V::fma(V::load(matrix + W * h), V::set(f[r]), part);
          }
        }
      }
    }
    for (uint32_t h = 0; h < kOut; ++h) {
      for (uint32_t step = 1; step < V::kChains; step *= 2) {
        for (uint32_t k = 0; k < V::kChains; k += 2 * step) y[k][h] = V::add(y[k][h], y[k + step][h]);
      }
      V::store(out + W * h, y[0][h]);
    }
  }

  static void synthesize(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                         LaneWeights* out) {
    if (net.identity) return dequantize(group, q, out->y);
    features(net, group, q, scratch);
    const Row* z = reinterpret_cast<const Row*>(scratch);
    if (net.width == 0) return multiply(net.skip_weight, nullptr, z, kChunk, kChunk, out->y);
    multiply(net.output_weight, net.output_bias, z + kChunk, net.width, kChunk, out->y);
    multiply<true>(net.skip_weight, nullptr, z, kChunk, kChunk, out->y);
  }

  template <Dtype kDtype>
  static void store_rows(const LaneWeights& y, const ColumnGroup& g, const StoreTarget& t) {
    constexpr size_t kSize = kDtype == Dtype::kF32 ? 4 : 2;
    constexpr uint32_t kLanes = V::kStoreRegs * W;
    for (uint32_t l = 0; l < g.active; l += kLanes) {
      const uint32_t count = g.active - l < kLanes ? g.active - l : kLanes;
      Reg column_scale[V::kStoreRegs];
      typename V::Mask scaled[V::kStoreRegs];
      for (uint32_t h = 0; h < V::kStoreRegs; ++h) {
        column_scale[h] = V::load(&g.scale[l + W * h]);
        scaled[h] = V::nonzero(column_scale[h]);
      }
      for (uint32_t r = t.row_begin; r < t.row_end; ++r) {
        const Reg row_scale = V::set(t.row_scale == nullptr ? 1.0f : t.row_scale[r]);
        Reg weight[V::kStoreRegs];
        for (uint32_t h = 0; h < V::kStoreRegs; ++h) {
          const Reg scale = V::mul(column_scale[h], row_scale);
          weight[h] = V::keep(V::mul(V::load(&y.y[r][l + W * h]), scale), scaled[h]);
        }
        uint8_t* row = t.out + (r - t.row_begin) * t.stride + l * kSize;
        V::template store_weights<kDtype>(row, weight, count);
      }
    }
  }
  static void store(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
    switch (target.dtype) {
      case Dtype::kF16: return store_rows<Dtype::kF16>(y, group, target);
      case Dtype::kBf16: return store_rows<Dtype::kBf16>(y, group, target);
      default: return store_rows<Dtype::kF32>(y, group, target);
    }
  }

  /// The head and the tail of a row up to whole lines, and in between V::stream_line past the caches.
  static void copy_rows(const RowCopy& rows) {
    const uint8_t* from = rows.from;
    uint8_t* to = rows.to;
    for (uint64_t r = 0; r < rows.rows; ++r, from += rows.width, to += rows.stride) {
      uint64_t i = (0 - reinterpret_cast<uintptr_t>(to)) % 64;
      if (i > rows.width) i = rows.width;
      __builtin_memcpy(to, from, i);
      for (; i + 64 <= rows.width; i += 64) V::stream_line(to + i, from + i);
      __builtin_memcpy(to + i, from + i, rows.width - i);
    }
    V::stream_fence();
  }
};

}  // namespace nwc
