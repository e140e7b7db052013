// AVX-512 twins of synthesize_group_scalar and its kin (synthesis_simd.h): 16 columns a register, two registers.
#include "runtime/codec/synthesis_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

struct Avx512 {
  using Reg = __m512;
  using Mask = __mmask16;
  using Levels = __m512i;
  static constexpr uint32_t kWidth = 16;
  static constexpr uint32_t kRows = 8;
  static constexpr uint32_t kFeatures = 16;
  static constexpr uint32_t kChains = 4;  // y is one register: one chain would wait for its own sums
  static constexpr uint32_t kStoreRegs = 2;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg set(float v) { return _mm512_set1_ps(v); }
  static Reg load(const float* p) { return _mm512_load_ps(p); }
  static Reg load_i16(const int16_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(p))));
  }
  static void store(float* p, Reg v) { _mm512_store_ps(p, v); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }
  static Reg fma_where(Reg a, Reg b, Reg c, Mask m) { return _mm512_mask3_fmadd_ps(a, b, c, m); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg sqrt(Reg a) { return _mm512_sqrt_ps(a); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static Reg scale_by_power(Reg v, Reg n) { return _mm512_scalef_ps(v, n); }
  static Mask nonzero(Reg a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  static Reg keep(Reg a, Mask m) { return _mm512_maskz_mov_ps(m, a); }
  static Reg copy_sign(Reg a, Reg sign) { return _mm512_or_ps(a, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f))); }

  static void multiply_add(Reg (*sum)[2], const Reg* x, const float* weights) {
    for (uint32_t r = 0; r < kRows; ++r) {
      const Reg weight = _mm512_set1_ps(weights[r]);
      sum[r][0] = _mm512_fmadd_ps(weight, x[0], sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(weight, x[1], sum[r][1]);
    }
  }

  static Levels load_levels(const uint8_t* level) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(level)));
  }
  /// e has 16, 32 or 64 entries: it fits registers, which is faster than a gather.
  static Reg embedding(const float* e, uint32_t stride, Levels level) {
    const Reg e0 = _mm512_loadu_ps(e);
    if (stride == 16) return _mm512_permutexvar_ps(level, e0);
    const Reg low = _mm512_permutex2var_ps(e0, level, _mm512_loadu_ps(e + 16));
    if (stride == 32) return low;
    const Reg high = _mm512_permutex2var_ps(_mm512_loadu_ps(e + 32), level, _mm512_loadu_ps(e + 48));
    return _mm512_mask_mov_ps(low, _mm512_cmpge_epi32_mask(level, _mm512_set1_epi32(32)), high);
  }

  static Reg sum_each(const Reg* x) {
    // Four registers become one of their sums within quarters, four of these one of whole sums.
    const auto quarters = [&](const Reg* r) {
      const Reg a = _mm512_add_ps(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
      const Reg b = _mm512_add_ps(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
      const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
      return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
    };
    const auto join = [](Reg a, Reg b) {
      return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    return join(join(quarters(x), quarters(x + 4)), join(quarters(x + 8), quarters(x + 12)));
  }

  static __m256i to_bf16(Reg x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
  }
  template <Dtype kDtype>
  static __m256i to_half(Reg x) {
    if constexpr (kDtype == Dtype::kBf16) return to_bf16(x);
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  template <Dtype kDtype>
  static void store_weights(uint8_t* row, const Reg* weight, uint32_t count) {
    const uint32_t active = count == kNumLanes ? ~0u : (1u << count) - 1;
    if constexpr (kDtype == Dtype::kF32) {
      _mm512_mask_storeu_ps(row, static_cast<__mmask16>(active), weight[0]);
      if (count > 16) _mm512_mask_storeu_ps(row + 64, static_cast<__mmask16>(active >> 16), weight[1]);
    } else {
      // One whole cache line where the group is whole.
      const __m512i line =
          _mm512_inserti64x4(_mm512_castsi256_si512(to_half<kDtype>(weight[0])), to_half<kDtype>(weight[1]), 1);
      if (count == kNumLanes) {
        _mm512_storeu_si512(row, line);
      } else {
        _mm512_mask_storeu_epi16(row, active, line);
      }
    }
  }

  static void stream_line(uint8_t* to, const uint8_t* from) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
  }
  static void stream_fence() { _mm_sfence(); }
};

using Kernels = SynthesisKernels<Avx512>;

}  // namespace

void features_group_avx512(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
  Kernels::features(net, group, q, scratch);
}
void accumulate_group_avx512(const ColumnGroup& group, const LaneValues& q, const FeatureSums& to) {
  Kernels::accumulate(group, q, to);
}
void feature_product_avx512(const FeatureBlock& block, const float* matrix, float* out) {
  Kernels::product(block, matrix, out);
}
void synthesize_group_avx512(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                             LaneWeights* out) {
  Kernels::synthesize(net, group, q, scratch, out);
}
void store_group_avx512(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  Kernels::store(y, group, target);
}
void copy_rows_avx512(const RowCopy& rows) { Kernels::copy_rows(rows); }

}  // namespace nwc
#endif
