// NEON twins of synthesize_group_scalar and its kin (synthesis_simd.h): 4 columns a register, eight registers.
#include "runtime/codec/synthesis_simd.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace nwc {
namespace {

struct Neon {
  using Reg = float32x4_t;
  using Mask = uint32x4_t;
  using Levels = const uint8_t*;
  static constexpr uint32_t kWidth = 4;
  static constexpr uint32_t kRows = 8;  // 8 x 2 sums, 2 inputs and 2 weights of the 32 registers
  static constexpr uint32_t kFeatures = 16;
  static constexpr uint32_t kChains = 1;
  static constexpr uint32_t kStoreRegs = 2;

  static Reg zero() { return vdupq_n_f32(0); }
  static Reg set(float v) { return vdupq_n_f32(v); }
  static Reg load(const float* p) { return vld1q_f32(p); }
  static Reg load_i16(const int16_t* p) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(p))); }
  static void store(float* p, Reg v) { vst1q_f32(p, v); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg fnma(Reg a, Reg b, Reg c) { return vfmsq_f32(c, a, b); }
  static Reg fma_where(Reg a, Reg b, Reg c, Mask m) { return vfmaq_f32(c, keep(a, m), b); }
  static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
  static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg sqrt(Reg a) { return vsqrtq_f32(a); }
  static Reg round(Reg a) { return vrndnq_f32(a); }
  static Reg scale_by_power(Reg v, Reg n) {
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(v, vreinterpretq_f32_s32(power));
  }
  static Mask nonzero(Reg a) { return vmvnq_u32(vceqzq_f32(a)); }
  static Reg keep(Reg a, Mask m) { return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), m)); }
  static Reg copy_sign(Reg a, Reg sign) { return vbslq_f32(vdupq_n_u32(1u << 31), sign, a); }

  static void multiply_add(Reg (*sum)[2], const Reg* x, const float* weights) {
    for (uint32_t r = 0; r < kRows; r += 4) {
      const Reg weight = vld1q_f32(weights + r);
      for (uint32_t h = 0; h < 2; ++h) {
        sum[r][h] = vfmaq_laneq_f32(sum[r][h], x[h], weight, 0);
        sum[r + 1][h] = vfmaq_laneq_f32(sum[r + 1][h], x[h], weight, 1);
        sum[r + 2][h] = vfmaq_laneq_f32(sum[r + 2][h], x[h], weight, 2);
        sum[r + 3][h] = vfmaq_laneq_f32(sum[r + 3][h], x[h], weight, 3);
      }
    }
  }

  static Levels load_levels(const uint8_t* level) { return level; }
  static Reg embedding(const float* e, uint32_t, Levels level) {
    Reg x = vld1q_dup_f32(e + level[0]);
    x = vld1q_lane_f32(e + level[1], x, 1);
    x = vld1q_lane_f32(e + level[2], x, 2);
    return vld1q_lane_f32(e + level[3], x, 3);
  }

  static Reg sum_each(const Reg* x) { return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])); }

  static uint16x4_t to_bf16(Reg x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
  }
  template <Dtype kDtype>
  static void store_weights(uint8_t* row, const Reg* weight, uint32_t count) {
    constexpr uint32_t kLanes = kStoreRegs * kWidth;
    uint8_t whole[32];
    uint8_t* to = count == kLanes ? row : whole;
    if constexpr (kDtype == Dtype::kF32) {
      vst1q_u8(to, vreinterpretq_u8_f32(weight[0]));
      vst1q_u8(to + 16, vreinterpretq_u8_f32(weight[1]));
    } else if constexpr (kDtype == Dtype::kBf16) {
      vst1q_u8(to, vreinterpretq_u8_u16(vcombine_u16(to_bf16(weight[0]), to_bf16(weight[1]))));
    } else {
      vst1q_u8(to, vreinterpretq_u8_f16(vcvt_high_f16_f32(vcvt_f16_f32(weight[0]), weight[1])));
    }
    if (count != kLanes) __builtin_memcpy(row, whole, size_t{count} * (kDtype == Dtype::kF32 ? 4 : 2));
  }
};

using Kernels = SynthesisKernels<Neon>;

}  // namespace

void features_group_neon(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
  Kernels::features(net, group, q, scratch);
}
void accumulate_group_neon(const ColumnGroup& group, const LaneValues& q, const FeatureSums& to) {
  Kernels::accumulate(group, q, to);
}
void feature_product_neon(const FeatureBlock& block, const float* matrix, float* out) {
  Kernels::product(block, matrix, out);
}
void synthesize_group_neon(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                           LaneWeights* out) {
  Kernels::synthesize(net, group, q, scratch, out);
}
void store_group_neon(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  Kernels::store(y, group, target);
}

}  // namespace nwc
#endif
