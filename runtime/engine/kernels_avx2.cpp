// Compiled with AVX2, FMA and F16C (CMakeLists.txt); called only where detect_cpu_level() says so.
#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/engine/kernels_simd.h"

namespace nwc {
namespace {

struct Avx2 {
  using Reg = __m256;
  using Mask = __m256i;
  static constexpr uint32_t kWidth = 8;
  static constexpr uint32_t kTileM = 6, kTileN = 2;  // 12 accumulators, 2 weights, 1 input of 16 registers
  static constexpr uint32_t kPanelRows = 48;
  static constexpr bool kFreeMasks = false;

  static Mask mask(uint32_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg set(float v) { return _mm256_set1_ps(v); }
  static Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg load_masked(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static Reg load_part(const float* p, uint32_t count) { return load_masked(p, mask(count)); }
  static void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static void store_masked(float* p, Reg v, Mask m) { _mm256_maskstore_ps(p, m, v); }
  static __m128i load_half_part(const uint16_t* p, uint32_t count) {
    uint16_t padded[8] = {};
    for (uint32_t i = 0; i < count; ++i) padded[i] = p[i];
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded));
  }
  static Reg from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
  static Reg load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg load_f16_part(const uint16_t* p, uint32_t count) { return _mm256_cvtph_ps(load_half_part(p, count)); }
  static Reg load_bf16(const uint16_t* p) { return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Reg load_bf16_part(const uint16_t* p, uint32_t count) { return from_bf16(load_half_part(p, count)); }
  static __m128i to_f16(Reg v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static void store_f16(uint16_t* p, Reg v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16(v)); }
  static void store_f16_part(uint16_t* p, Reg v, uint32_t count) {
    uint16_t padded[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(padded), to_f16(v));
    for (uint32_t i = 0; i < count; ++i) p[i] = padded[i];
  }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale_by_power(Reg v, Reg n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(v, _mm256_castsi256_ps(bits));
  }
  static float sum(Reg v) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
  }
  static float largest(Reg v) {
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
  }

  /// 8 x 8: pairs of rows, pairs of pairs inside each half, then the halves.
  static void transpose(Reg r[8]) {
    Reg t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    Reg u[8];
#pragma GCC unroll 2
    for (int g = 0; g < 8; g += 4) {
      u[g] = _mm256_shuffle_ps(t[g], t[g + 2], 0x44);
      u[g + 1] = _mm256_shuffle_ps(t[g], t[g + 2], 0xee);
      u[g + 2] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0x44);
      u[g + 3] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
      r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
    }
  }
};

}  // namespace

const KernelTable kAvx2Kernels = SimdKernels<Avx2>::table();

}  // namespace nwc

#endif
