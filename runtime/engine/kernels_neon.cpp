// NEON twin of kScalarKernels; every AArch64 processor has what it needs.
#if defined(__aarch64__)

#include <arm_neon.h>

#include "runtime/engine/kernels_simd.h"

namespace nwc {
namespace {

struct Neon {
  using Reg = float32x4_t;
  using Mask = uint32_t;  // how many: there are no masked loads
  static constexpr uint32_t kWidth = 4;
  static constexpr uint32_t kTileM = 8, kTileN = 3;  // 24 accumulators, 3 weights, 1 input of 32 registers
  static constexpr uint32_t kPanelRows = 48;
  static constexpr bool kFreeMasks = false;

  static Mask mask(uint32_t count) { return count; }
  static Reg zero() { return vdupq_n_f32(0); }
  static Reg set(float v) { return vdupq_n_f32(v); }
  static Reg broadcast(const float* p) { return vld1q_dup_f32(p); }
  static Reg load(const float* p) { return vld1q_f32(p); }
  static Reg load_masked(const float* p, Mask count) {
    if (count >= 4) return load(p);
    Reg v = vsetq_lane_f32(*p, zero(), 0);
    if (count >= 2) v = vld1q_lane_f32(p + 1, v, 1);
    if (count >= 3) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  static Reg load_part(const float* p, uint32_t count) { return load_masked(p, count); }
  static void store(float* p, Reg v) { vst1q_f32(p, v); }
  static void store_masked(float* p, Reg v, Mask count) {
    if (count >= 4) return store(p, v);
    vst1q_lane_f32(p, v, 0);
    if (count >= 2) vst1q_lane_f32(p + 1, v, 1);
    if (count >= 3) vst1q_lane_f32(p + 2, v, 2);
  }
  static uint16x4_t load_half_part(const uint16_t* p, uint32_t count) {
    uint16_t padded[4] = {};
    for (uint32_t i = 0; i < count; ++i) padded[i] = p[i];
    return vld1_u16(padded);
  }
  static Reg from_f16(uint16x4_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(h)); }
  static Reg from_bf16(uint16x4_t h) { return vreinterpretq_f32_u32(vshll_n_u16(h, 16)); }
  static Reg load_f16(const uint16_t* p) { return from_f16(vld1_u16(p)); }
  static Reg load_f16_part(const uint16_t* p, uint32_t count) { return from_f16(load_half_part(p, count)); }
  static Reg load_bf16(const uint16_t* p) { return from_bf16(vld1_u16(p)); }
  static Reg load_bf16_part(const uint16_t* p, uint32_t count) { return from_bf16(load_half_part(p, count)); }
  static uint16x4_t to_f16(Reg v) { return vreinterpret_u16_f16(vcvt_f16_f32(v)); }
  static void store_f16(uint16_t* p, Reg v) { vst1_u16(p, to_f16(v)); }
  static void store_f16_part(uint16_t* p, Reg v, uint32_t count) {
    uint16_t padded[4];
    vst1_u16(padded, to_f16(v));
    for (uint32_t i = 0; i < count; ++i) p[i] = padded[i];
  }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
  static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg round(Reg a) { return vrndnq_f32(a); }
  static Reg scale_by_power(Reg v, Reg n) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(v, vreinterpretq_f32_s32(bits));
  }
  static float sum(Reg v) { return vaddvq_f32(v); }
  static float largest(Reg v) { return vmaxvq_f32(v); }

  /// 4 x 4: pairs of rows, then pairs of pairs.
  static void transpose(Reg r[4]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));  // columns 0 and 2 of rows 0, 1
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
  }
};

}  // namespace

const KernelTable kNeonKernels = SimdKernels<Neon>::table();

}  // namespace nwc

#endif
