// AVX-512 twins of synthesize_group_scalar and store_group_scalar: lanes are columns, 16 a register, two registers.
#include "runtime/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

constexpr uint32_t kRows = 8;  // of a packed panel
using Row = float[kNumLanes];

// out[o][lane] = sum_i m[o][i] * in[i][lane] + bias[o]; without bias the sum is added to out, or replaces it.
template <bool kAdd = false>
void multiply(const float* m, const float* bias, const Row* in, uint32_t num_in, uint32_t num_out, Row* out) {
  for (uint32_t o = 0; o < num_out; o += kRows, m += size_t{num_in} * kRows) {
    __m512 sum[kRows][2];
    for (uint32_t r = 0; r < kRows; ++r) {
      for (uint32_t h = 0; h < 2; ++h)
        sum[r][h] = bias != nullptr ? _mm512_set1_ps(bias[o + r])
                    : kAdd          ? _mm512_load_ps(&out[o + r][16 * h])
                                    : _mm512_setzero_ps();
    }
    for (uint32_t i = 0; i < num_in; ++i) {
      const __m512 x0 = _mm512_load_ps(&in[i][0]);
      const __m512 x1 = _mm512_load_ps(&in[i][16]);
      for (uint32_t r = 0; r < kRows; ++r) {
        const __m512 weight = _mm512_set1_ps(m[size_t{i} * kRows + r]);
        sum[r][0] = _mm512_fmadd_ps(weight, x0, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(weight, x1, sum[r][1]);
      }
    }
    for (uint32_t r = 0; r < kRows; ++r) {
      for (uint32_t h = 0; h < 2; ++h) _mm512_store_ps(&out[o + r][16 * h], sum[r][h]);
    }
  }
}

template <bool kShrink>
void dequantize(const ColumnGroup& g, const LaneValues& q, Row* z) {
  for (uint32_t h = 0; h < 2; ++h) {
    const __m512 step = _mm512_load_ps(&g.step[16 * h]);
    const __m512 shrink = _mm512_load_ps(&g.shrink[16 * h]);
    for (uint32_t c = 0; c < kChunk; ++c) {
      const __m256i value = _mm256_load_si256(reinterpret_cast<const __m256i*>(&q.q[c][16 * h]));
      __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(value));
      if constexpr (kShrink) {
        const __mmask16 nonzero = _mm512_test_epi32_mask(_mm512_castps_si512(x), _mm512_castps_si512(x));
        const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
        x = _mm512_mask_sub_ps(x, nonzero, x, _mm512_or_ps(shrink, sign));
      }
      _mm512_store_ps(&z[c][16 * h], _mm512_mul_ps(x, step));
    }
  }
}

void dequantize(const ColumnGroup& g, const LaneValues& q, Row* z) {
  g.any_shrink ? dequantize<true>(g, q, z) : dequantize<false>(g, q, z);
}

// e^x to a few units in the last place (Cody and Waite's reduction, Taylor's polynomial of degree 6).
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float c : kTaylor) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

inline __m512 silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// u = (u - mean) / sqrt(var + 1e-5) * gain + bias, over the w rows, for 16 lanes.
void normalise(const float* gain, const float* bias, uint32_t w, uint32_t h, Row* u) {
  const __m512 over_w = _mm512_set1_ps(1.0f / static_cast<float>(w));
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (uint32_t i = 0; i < w; ++i) sum = _mm512_add_ps(sum, _mm512_load_ps(&u[i][16 * h]));
  const __m512 mean = _mm512_mul_ps(sum, over_w);
  for (uint32_t i = 0; i < w; ++i) {
    const __m512 d = _mm512_sub_ps(_mm512_load_ps(&u[i][16 * h]), mean);
    squares = _mm512_fmadd_ps(d, d, squares);
  }
  const __m512 deviation = _mm512_sqrt_ps(_mm512_fmadd_ps(squares, over_w, _mm512_set1_ps(1e-5f)));
  const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1.0f), deviation);
  for (uint32_t i = 0; i < w; ++i) {
    const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(&u[i][16 * h]), mean), factor);
    _mm512_store_ps(&u[i][16 * h], _mm512_fmadd_ps(d, _mm512_set1_ps(gain[i]), _mm512_set1_ps(bias[i])));
  }
}

// e[level[lane]] for each lane; e has `stride` (16, 32 or 64) entries.
inline __m512 embedding(const float* e, uint32_t stride, __m512i level) {
  const __m512 e0 = _mm512_loadu_ps(e);
  if (stride == 16) return _mm512_permutexvar_ps(level, e0);
  const __m512 low = _mm512_permutex2var_ps(e0, level, _mm512_loadu_ps(e + 16));
  if (stride == 32) return low;
  const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(e + 32), level, _mm512_loadu_ps(e + 48));
  return _mm512_mask_mov_ps(low, _mm512_cmpge_epi32_mask(level, _mm512_set1_epi32(32)), high);
}

// h = (h + act(u)) * E, for 16 lanes.
void activate(const SynthesisView& net, const float* e, const ColumnGroup& g, uint32_t h, const Row* u, Row* x) {
  const __m512i level = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(&g.level[16 * h])));
  for (uint32_t i = 0; i < net.width; ++i) {
    __m512 a = _mm512_load_ps(&u[i][16 * h]);
    a = net.silu ? silu(a) : _mm512_max_ps(a, _mm512_setzero_ps());
    a = _mm512_add_ps(a, _mm512_load_ps(&x[i][16 * h]));
    _mm512_store_ps(&x[i][16 * h],
                    _mm512_mul_ps(a, embedding(e + size_t{i} * net.level_stride, net.level_stride, level)));
  }
}

inline __m256i to_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
}

template <Dtype kDtype>
inline __m256i to_half(__m512 x) {
  if constexpr (kDtype == Dtype::kBf16) return to_bf16(x);
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

template <Dtype kDtype>
void store_rows(const LaneWeights& y, const ColumnGroup& g, const StoreTarget& t) {
  const uint32_t active = g.active == kNumLanes ? ~0u : (1u << g.active) - 1;
  __m512 column_scale[2];
  __mmask16 nonzero[2];
  for (int h = 0; h < 2; ++h) {
    column_scale[h] = _mm512_load_ps(&g.scale[16 * h]);
    nonzero[h] = _mm512_cmp_ps_mask(column_scale[h], _mm512_setzero_ps(), _CMP_NEQ_UQ);
  }
  for (uint32_t r = t.row_begin; r < t.row_end; ++r) {
    const __m512 row_scale = _mm512_set1_ps(t.row_scale == nullptr ? 1.0f : t.row_scale[r]);
    __m512 weight[2];
    for (int h = 0; h < 2; ++h) {
      const __m512 scale = _mm512_mul_ps(column_scale[h], row_scale);
      weight[h] = _mm512_maskz_mul_ps(nonzero[h], _mm512_load_ps(&y.y[r][16 * h]), scale);
    }
    uint8_t* row = t.out + (r - t.row_begin) * t.stride;
    if constexpr (kDtype == Dtype::kF32) {
      _mm512_mask_storeu_ps(row, static_cast<__mmask16>(active), weight[0]);
      if (g.active > 16) _mm512_mask_storeu_ps(row + 64, static_cast<__mmask16>(active >> 16), weight[1]);
    } else {
      // One whole cache line where the group is whole.
      const __m512i line =
          _mm512_inserti64x4(_mm512_castsi256_si512(to_half<kDtype>(weight[0])), to_half<kDtype>(weight[1]), 1);
      if (g.active == kNumLanes) {
        _mm512_storeu_si512(row, line);
      } else {
        _mm512_mask_storeu_epi16(row, active, line);
      }
    }
  }
}

// The sums of 16 registers' lanes.
inline __m512 sum_each(const __m512* x) {
  // Four registers become one of their sums within quarters, four of these one of whole sums.
  const auto quarters = [&](const __m512* r) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  };
  const auto add = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return add(add(quarters(x), quarters(x + 4)), add(quarters(x + 8), quarters(x + 12)));
}

}  // namespace

void features_group_avx512(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
  const uint32_t w = net.width;
  Row* z = reinterpret_cast<Row*>(scratch);
  Row* x = z + kChunk;
  Row* u = x + w;
  dequantize(group, q, z);
  if (w == 0) return;
  // A and the first block's V A at once: u lies behind x.
  multiply(net.A, net.a, z, kChunk, net.num_blocks == 0 ? w : 2 * w, x);
  for (uint32_t b = 0; b < net.num_blocks; ++b) {
    const size_t at = size_t{b} * w;
    if (b != 0) multiply(net.V + (at - w) * w, net.v + at - w, x, w, w, u);
    for (uint32_t h = 0; h < 2; ++h) {
      if (net.layer_norm) normalise(net.gain + at, net.bias + at, w, h, u);
      activate(net, net.E + at * net.level_stride, group, h, u, x);
    }
  }
}

void feature_product_avx512(const FeatureBlock& block, const float* matrix, float* out) {
  __m512 y[4] = {_mm512_load_ps(out)};  // four chains; the others start at zero
  for (uint32_t i = 0; i < block.count; i += 16) {
    __m512 sum[16];
    for (__m512& s : sum) s = _mm512_setzero_ps();
    for (uint32_t slot = 0; slot < block.slots; ++slot) {
      const float* feature = block.features + (size_t{slot} * block.count + i) * kNumLanes;
      for (uint32_t h = 0; h < 2; ++h) {
        const __m512 factor = _mm512_load_ps(block.factor + slot * block.factor_stride + 16 * h);
        const __mmask16 use = _mm512_cmp_ps_mask(factor, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        for (uint32_t r = 0; r < 16; ++r)
          sum[r] = _mm512_mask3_fmadd_ps(_mm512_load_ps(feature + r * kNumLanes + 16 * h), factor, sum[r], use);
      }
    }
    const __m512 t = sum_each(sum);
    if (matrix == nullptr) {
      y[0] = _mm512_add_ps(y[0], t);
      continue;
    }
    alignas(64) float f[16];
    _mm512_store_ps(f, t);
    for (uint32_t r = 0; r < 16; ++r, matrix += kChunk)
      y[r % 4] = _mm512_fmadd_ps(_mm512_load_ps(matrix), _mm512_set1_ps(f[r]), y[r % 4]);
  }
  _mm512_store_ps(out, _mm512_add_ps(_mm512_add_ps(y[0], y[1]), _mm512_add_ps(y[2], y[3])));
}

void synthesize_group_avx512(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                             LaneWeights* out) {
  if (net.identity) return dequantize(group, q, out->y);
  features_group_avx512(net, group, q, scratch);
  const Row* z = reinterpret_cast<const Row*>(scratch);
  if (net.width == 0) return multiply(net.S, nullptr, z, kChunk, kChunk, out->y);
  multiply(net.C, net.c, z + kChunk, net.width, kChunk, out->y);
  multiply<true>(net.S, nullptr, z, kChunk, kChunk, out->y);
}

void store_group_avx512(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  switch (target.dtype) {
    case Dtype::kF16: return store_rows<Dtype::kF16>(y, group, target);
    case Dtype::kBf16: return store_rows<Dtype::kBf16>(y, group, target);
    default: return store_rows<Dtype::kF32>(y, group, target);
  }
}

void copy_rows_avx512(const RowCopy& rows) {
  const uint8_t* from = rows.from;
  uint8_t* to = rows.to;
  for (uint64_t r = 0; r < rows.rows; ++r, from += rows.width, to += rows.stride) {
    uint64_t i = (0 - reinterpret_cast<uintptr_t>(to)) % 64;
    if (i > rows.width) i = rows.width;
    __builtin_memcpy(to, from, i);
    for (; i + 64 <= rows.width; i += 64) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
    }
    __builtin_memcpy(to + i, from + i, rows.width - i);
  }
  _mm_sfence();
}

}  // namespace nwc
#endif
