// AVX2 twins of synthesize_group_scalar and its kin (synthesis_simd.h): 8 columns a register, four registers.
#include "runtime/codec/synthesis_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

struct Avx2 {
  using Reg = __m256;
  using Mask = __m256;
  using Levels = __m256i;
  static constexpr uint32_t kWidth = 8;
  static constexpr uint32_t kRows = 4;  // 4 x 2 sums and what they are made of fit the 16 registers
  static constexpr uint32_t kFeatures = 8;
  static constexpr uint32_t kChains = 1;
  static constexpr uint32_t kStoreRegs = 1;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg set(float v) { return _mm256_set1_ps(v); }
  static Reg load(const float* p) { return _mm256_load_ps(p); }
  static Reg load_i16(const int16_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static void store(float* p, Reg v) { _mm256_store_ps(p, v); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
  static Reg fma_where(Reg a, Reg b, Reg c, Mask m) { return _mm256_fmadd_ps(_mm256_and_ps(a, m), b, c); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg sqrt(Reg a) { return _mm256_sqrt_ps(a); }
  static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale_by_power(Reg v, Reg n) {
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(v, _mm256_castsi256_ps(power));
  }
  static Mask nonzero(Reg a) { return _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ); }
  static Reg keep(Reg a, Mask m) { return _mm256_and_ps(a, m); }
  static Reg copy_sign(Reg a, Reg sign) { return _mm256_or_ps(a, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f))); }

  static void multiply_add(Reg (*sum)[2], const Reg* x, const float* weights) {
    for (uint32_t r = 0; r < kRows; ++r) {
      const Reg weight = _mm256_broadcast_ss(weights + r);
      sum[r][0] = _mm256_fmadd_ps(weight, x[0], sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(weight, x[1], sum[r][1]);
    }
  }

  static Levels load_levels(const uint8_t* level) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(level)));
  }
  static Reg embedding(const float* e, uint32_t, Levels level) { return _mm256_i32gather_ps(e, level, 4); }

  static Reg sum_each(const Reg* x) {
    const Reg a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    const Reg b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }

  static __m128i to_bf16(Reg x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i result = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
  }
  template <Dtype kDtype>
  static void store_weights(uint8_t* row, const Reg* weight, uint32_t count) {
    alignas(32) uint8_t whole[32];
    uint8_t* to = count == kWidth ? row : whole;
    if constexpr (kDtype == Dtype::kF32) {
      _mm256_storeu_ps(reinterpret_cast<float*>(to), *weight);
    } else {
      const __m128i half = kDtype == Dtype::kBf16
                               ? to_bf16(*weight)
                               : _mm256_cvtps_ph(*weight, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
    }
    if (count != kWidth) __builtin_memcpy(row, whole, size_t{count} * (kDtype == Dtype::kF32 ? 4 : 2));
  }

  static void stream_line(uint8_t* to, const uint8_t* from) {
    for (uint32_t k = 0; k < 64; k += 32) {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + k));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + k), half);
    }
  }
  static void stream_fence() { _mm_sfence(); }
};

using Kernels = SynthesisKernels<Avx2>;

}  // namespace

void features_group_avx2(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
  Kernels::features(net, group, q, scratch);
}
void accumulate_group_avx2(const ColumnGroup& group, const LaneValues& q, const FeatureSums& to) {
  Kernels::accumulate(group, q, to);
}
void feature_product_avx2(const FeatureBlock& block, const float* matrix, float* out) {
  Kernels::product(block, matrix, out);
}
void synthesize_group_avx2(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                           LaneWeights* out) {
  Kernels::synthesize(net, group, q, scratch, out);
}
void store_group_avx2(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  Kernels::store(y, group, target);
}
void copy_rows_avx2(const RowCopy& rows) { Kernels::copy_rows(rows); }

}  // namespace nwc
#endif
