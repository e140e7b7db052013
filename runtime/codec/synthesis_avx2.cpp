// AVX2 twins of synthesize_group_scalar and store_group_scalar: lanes are columns, 8 a register, four registers.
#include "runtime/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

constexpr uint32_t kPanel = 8;  // rows of a packed panel
constexpr uint32_t kRows = 4;   // of them at a time: 4 x 2 sums and what they are made of fit the 16 registers
using Row = float[kNumLanes];

// out[o][lane] = sum_i m[o][i] * in[i][lane] + bias[o]; without bias the sum is added to out, or replaces it.
template <bool kAdd = false>
void multiply(const float* m, const float* bias, const Row* in, uint32_t num_in, uint32_t num_out, Row* out) {
  for (uint32_t o = 0; o < num_out; o += kRows) {
    const float* panel = m + size_t{o / kPanel} * num_in * kPanel + o % kPanel;
    for (uint32_t l = 0; l < kNumLanes; l += 16) {
      __m256 sum[kRows][2];
      for (uint32_t r = 0; r < kRows; ++r) {
        for (uint32_t h = 0; h < 2; ++h)
          sum[r][h] = bias != nullptr ? _mm256_set1_ps(bias[o + r])
                      : kAdd          ? _mm256_load_ps(&out[o + r][l + 8 * h])
                                      : _mm256_setzero_ps();
      }
      for (uint32_t i = 0; i < num_in; ++i) {
        const __m256 x0 = _mm256_load_ps(&in[i][l]);
        const __m256 x1 = _mm256_load_ps(&in[i][l + 8]);
        for (uint32_t r = 0; r < kRows; ++r) {
          const __m256 weight = _mm256_broadcast_ss(&panel[size_t{i} * kPanel + r]);
          sum[r][0] = _mm256_fmadd_ps(weight, x0, sum[r][0]);
          sum[r][1] = _mm256_fmadd_ps(weight, x1, sum[r][1]);
        }
      }
      for (uint32_t r = 0; r < kRows; ++r) {
        for (uint32_t h = 0; h < 2; ++h) _mm256_store_ps(&out[o + r][l + 8 * h], sum[r][h]);
      }
    }
  }
}

void dequantize(const ColumnGroup& g, const LaneValues& q, Row* z) {
  for (uint32_t l = 0; l < kNumLanes; l += 8) {
    const __m256 step = _mm256_load_ps(&g.step[l]);
    const __m256 shrink = _mm256_load_ps(&g.shrink[l]);
    for (uint32_t c = 0; c < kChunk; ++c) {
      const __m128i value = _mm_load_si128(reinterpret_cast<const __m128i*>(&q.q[c][l]));
      __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(value));
      if (g.any_shrink) {
        const __m256 nonzero = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ);
        const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
        x = _mm256_sub_ps(x, _mm256_and_ps(nonzero, _mm256_or_ps(shrink, sign)));
      }
      _mm256_store_ps(&z[c][l], _mm256_mul_ps(x, step));
    }
  }
}

// e^x to a few units in the last place (Cody and Waite's reduction, Taylor's polynomial of degree 6).
inline __m256 exponential(__m256 x) {
  x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.0f)), _mm256_set1_ps(-87.0f));
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float c : kTaylor) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

inline __m256 silu(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(x, _mm256_add_ps(one, exponential(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

// u = (u - mean) / sqrt(var + 1e-5) * gain + bias, over the w rows, for 8 lanes.
void normalise(const float* gain, const float* bias, uint32_t w, uint32_t l, Row* u) {
  const __m256 over_w = _mm256_set1_ps(1.0f / static_cast<float>(w));
  __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
  for (uint32_t i = 0; i < w; ++i) sum = _mm256_add_ps(sum, _mm256_load_ps(&u[i][l]));
  const __m256 mean = _mm256_mul_ps(sum, over_w);
  for (uint32_t i = 0; i < w; ++i) {
    const __m256 d = _mm256_sub_ps(_mm256_load_ps(&u[i][l]), mean);
    squares = _mm256_fmadd_ps(d, d, squares);
  }
  const __m256 deviation = _mm256_sqrt_ps(_mm256_fmadd_ps(squares, over_w, _mm256_set1_ps(1e-5f)));
  const __m256 factor = _mm256_div_ps(_mm256_set1_ps(1.0f), deviation);
  for (uint32_t i = 0; i < w; ++i) {
    const __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_load_ps(&u[i][l]), mean), factor);
    _mm256_store_ps(&u[i][l], _mm256_fmadd_ps(d, _mm256_set1_ps(gain[i]), _mm256_set1_ps(bias[i])));
  }
}

// h = (h + act(u)) * E, for 8 lanes.
void activate(const SynthesisView& net, const float* e, const ColumnGroup& g, uint32_t l, const Row* u, Row* x) {
  const __m256i level = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&g.level[l])));
  for (uint32_t i = 0; i < net.width; ++i) {
    __m256 a = _mm256_load_ps(&u[i][l]);
    a = net.silu ? silu(a) : _mm256_max_ps(a, _mm256_setzero_ps());
    a = _mm256_add_ps(a, _mm256_load_ps(&x[i][l]));
    const __m256 factor = _mm256_i32gather_ps(e + size_t{i} * net.level_stride, level, 4);
    _mm256_store_ps(&x[i][l], _mm256_mul_ps(a, factor));
  }
}

inline __m128i to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i result = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}

template <Dtype kDtype>
void store_rows(const LaneWeights& y, const ColumnGroup& g, const StoreTarget& t) {
  constexpr uint32_t kSize = kDtype == Dtype::kF32 ? 4 : 2;
  for (uint32_t l = 0; l < g.active; l += 8) {
    const uint32_t count = g.active - l < 8 ? g.active - l : 8;
    const __m256 column_scale = _mm256_load_ps(&g.scale[l]);
    const __m256 nonzero = _mm256_cmp_ps(column_scale, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    for (uint32_t r = t.row_begin; r < t.row_end; ++r) {
      const __m256 scale =
          t.row_scale == nullptr ? column_scale : _mm256_mul_ps(column_scale, _mm256_set1_ps(t.row_scale[r]));
      const __m256 weight = _mm256_and_ps(nonzero, _mm256_mul_ps(_mm256_load_ps(&y.y[r][l]), scale));
      alignas(32) uint8_t whole[32];
      uint8_t* row = t.out + (r - t.row_begin) * t.stride + size_t{l} * kSize;
      uint8_t* to = count == 8 ? row : whole;
      if constexpr (kDtype == Dtype::kF32) {
        _mm256_storeu_ps(reinterpret_cast<float*>(to), weight);
      } else {
        const __m128i half = kDtype == Dtype::kBf16
                                 ? to_bf16(weight)
                                 : _mm256_cvtps_ph(weight, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
      }
      if (count != 8) __builtin_memcpy(row, whole, size_t{count} * kSize);
    }
  }
}

}  // namespace

void features_group_avx2(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
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
    for (uint32_t l = 0; l < kNumLanes; l += 8) {
      if (net.layer_norm) normalise(net.gain + at, net.bias + at, w, l, u);
      activate(net, net.E + at * net.level_stride, group, l, u, x);
    }
  }
}

void feature_product_avx2(const FeatureBlock& block, const float* matrix, float* out) {
  __m256 y[2] = {_mm256_load_ps(out), _mm256_load_ps(out + 8)};
  for (uint32_t i = 0; i < block.count; i += 8) {
    __m256 sum[8];
    for (__m256& s : sum) s = _mm256_setzero_ps();
    for (uint32_t slot = 0; slot < block.slots; ++slot) {
      const float* feature = block.features + (size_t{slot} * block.count + i) * kNumLanes;
      for (uint32_t l = 0; l < kNumLanes; l += 8) {
        const __m256 factor = _mm256_load_ps(block.factor + slot * block.factor_stride + l);
        const __m256 use = _mm256_cmp_ps(factor, _mm256_setzero_ps(), _CMP_NEQ_UQ);
        for (uint32_t r = 0; r < 8; ++r)
          sum[r] = _mm256_fmadd_ps(_mm256_and_ps(_mm256_load_ps(feature + r * kNumLanes + l), use), factor, sum[r]);
      }
    }
    const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(sum[0], sum[1]), _mm256_hadd_ps(sum[2], sum[3]));
    const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(sum[4], sum[5]), _mm256_hadd_ps(sum[6], sum[7]));
    const __m256 t = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    if (matrix == nullptr) {
      y[i / 8] = _mm256_add_ps(y[i / 8], t);
      continue;
    }
    alignas(32) float f[8];
    _mm256_store_ps(f, t);
    for (uint32_t r = 0; r < 8; ++r, matrix += kChunk) {
      for (uint32_t h = 0; h < 2; ++h)
        y[h] = _mm256_fmadd_ps(_mm256_load_ps(matrix + 8 * h), _mm256_broadcast_ss(f + r), y[h]);
    }
  }
  for (uint32_t h = 0; h < 2; ++h) _mm256_store_ps(out + 8 * h, y[h]);
}

void synthesize_group_avx2(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                           LaneWeights* out) {
  if (net.identity) return dequantize(group, q, out->y);
  features_group_avx2(net, group, q, scratch);
  const Row* z = reinterpret_cast<const Row*>(scratch);
  if (net.width == 0) return multiply(net.S, nullptr, z, kChunk, kChunk, out->y);
  multiply(net.C, net.c, z + kChunk, net.width, kChunk, out->y);
  multiply<true>(net.S, nullptr, z, kChunk, kChunk, out->y);
}

void store_group_avx2(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  switch (target.dtype) {
    case Dtype::kF16: return store_rows<Dtype::kF16>(y, group, target);
    case Dtype::kBf16: return store_rows<Dtype::kBf16>(y, group, target);
    default: return store_rows<Dtype::kF32>(y, group, target);
  }
}

void copy_rows_avx2(const RowCopy& rows) {
  const uint8_t* from = rows.from;
  uint8_t* to = rows.to;
  for (uint64_t r = 0; r < rows.rows; ++r, from += rows.width, to += rows.stride) {
    uint64_t i = (0 - reinterpret_cast<uintptr_t>(to)) % 64;
    if (i > rows.width) i = rows.width;
    __builtin_memcpy(to, from, i);
    for (; i + 64 <= rows.width; i += 64) {
      for (uint64_t k = i; k < i + 64; k += 32) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + k));
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + k), half);
      }
    }
    __builtin_memcpy(to + i, from + i, rows.width - i);
  }
  _mm_sfence();
}

}  // namespace nwc
#endif
