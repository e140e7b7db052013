// Compiled with AVX-512 F, BW, DQ, VL (CMakeLists.txt); called only where detect_cpu_level() says so.
#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/engine/kernels_simd.h"

namespace nwc {
namespace {

struct Avx512 {
  using Reg = __m512;
  using Mask = __mmask16;
  static constexpr uint32_t kWidth = 16;
  static constexpr uint32_t kTileM = 8, kTileN = 3;  // 24 accumulators, 3 weights, 1 input of 32 registers
  static constexpr uint32_t kPanelRows = 48;
  static constexpr bool kFreeMasks = true;  // a masked load costs what a load costs

  static Mask mask(uint32_t count) { return static_cast<Mask>((1u << count) - 1); }
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg set(float v) { return _mm512_set1_ps(v); }
  static Reg broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg load_masked(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static Reg load_part(const float* p, uint32_t count) { return load_masked(p, mask(count)); }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void store_masked(float* p, Reg v, Mask m) { _mm512_mask_storeu_ps(p, m, v); }
  static Reg from_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
  static Reg load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg load_f16_part(const uint16_t* p, uint32_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static Reg load_bf16(const uint16_t* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Reg load_bf16_part(const uint16_t* p, uint32_t count) {
    return from_bf16(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static __m256i to_f16(Reg v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static void store_f16(uint16_t* p, Reg v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(v)); }
  static void store_f16_part(uint16_t* p, Reg v, uint32_t count) {
    _mm256_mask_storeu_epi16(p, mask(count), to_f16(v));
  }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale_by_power(Reg v, Reg n) { return _mm512_scalef_ps(v, n); }
  static float sum(Reg v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
  }
  static float largest(Reg v) { return _mm512_reduce_max_ps(v); }

  /// 16 x 16: pairs of rows, then pairs of pairs inside each 128-bit quarter, then the quarters themselves.
  static void transpose(Reg r[16]) {
    Reg t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    Reg u[16];  // u[4 g + j], quarter q: column 4 q + j of rows 4 g .. 4 g + 3
#pragma GCC unroll 4
    for (int g = 0; g < 16; g += 4) {
      u[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[g]), _mm512_castps_pd(t[g + 2])));
      u[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[g]), _mm512_castps_pd(t[g + 2])));
      u[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[g + 1]), _mm512_castps_pd(t[g + 3])));
      u[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[g + 1]), _mm512_castps_pd(t[g + 3])));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Reg a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x44);       // quarters 0 1 of row groups 0, 1
      const Reg b = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x44);  // the same of row groups 2, 3
      const Reg c = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xee);
      const Reg d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xee);
      r[j] = _mm512_shuffle_f32x4(a, b, 0x88);
      r[4 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
      r[8 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
      r[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
  }
};

}  // namespace

const KernelTable kAvx512Kernels = SimdKernels<Avx512>::table();

}  // namespace nwc

#endif
