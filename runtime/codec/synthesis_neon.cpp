// NEON twins of features_group_scalar, feature_product_scalar, synthesize_group_scalar and store_group_scalar: lanes
// are columns, 4 a register, eight registers.
#include "runtime/codec/lane_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstddef>

namespace nwc {
namespace {

constexpr uint32_t kPanel = 8;  // rows of a packed panel: 8 x 2 sums, 2 inputs and 2 weights of the 32 registers
using Row = float[kNumLanes];

// out[o][lane] = sum_i m[o][i] * in[i][lane] + bias[o]; without bias the sum is added to out, or replaces it.
template <bool kAdd = false>
void multiply(const float* m, const float* bias, const Row* in, uint32_t num_in, uint32_t num_out, Row* out) {
  for (uint32_t o = 0; o < num_out; o += kPanel, m += size_t{num_in} * kPanel) {
    for (uint32_t l = 0; l < kNumLanes; l += 8) {
      float32x4_t sum[kPanel][2];
      for (uint32_t r = 0; r < kPanel; ++r) {
        for (uint32_t h = 0; h < 2; ++h)
          sum[r][h] = bias != nullptr ? vdupq_n_f32(bias[o + r])
                      : kAdd          ? vld1q_f32(&out[o + r][l + 4 * h])
                                      : vdupq_n_f32(0);
      }
      for (uint32_t i = 0; i < num_in; ++i) {
        const float* panel = m + size_t{i} * kPanel;
        const float32x4_t x[2] = {vld1q_f32(&in[i][l]), vld1q_f32(&in[i][l + 4])};
        for (uint32_t r = 0; r < kPanel; r += 4) {
          const float32x4_t weight = vld1q_f32(panel + r);
          for (uint32_t h = 0; h < 2; ++h) {
            sum[r][h] = vfmaq_laneq_f32(sum[r][h], x[h], weight, 0);
            sum[r + 1][h] = vfmaq_laneq_f32(sum[r + 1][h], x[h], weight, 1);
            sum[r + 2][h] = vfmaq_laneq_f32(sum[r + 2][h], x[h], weight, 2);
            sum[r + 3][h] = vfmaq_laneq_f32(sum[r + 3][h], x[h], weight, 3);
          }
        }
      }
      for (uint32_t r = 0; r < kPanel; ++r) {
        for (uint32_t h = 0; h < 2; ++h) vst1q_f32(&out[o + r][l + 4 * h], sum[r][h]);
      }
    }
  }
}

inline float32x4_t keep(float32x4_t x, uint32x4_t where) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), where));
}
inline uint32x4_t nonzero(float32x4_t x) { return vmvnq_u32(vceqzq_f32(x)); }

void dequantize(const ColumnGroup& g, const LaneValues& q, Row* z) {
  for (uint32_t l = 0; l < kNumLanes; l += 4) {
    const float32x4_t step = vld1q_f32(&g.step[l]);
    const float32x4_t shrink = vld1q_f32(&g.shrink[l]);
    for (uint32_t c = 0; c < kChunk; ++c) {
      float32x4_t x = vcvtq_f32_s32(vmovl_s16(vld1_s16(&q.q[c][l])));
      if (g.any_shrink) {
        const float32x4_t toward_zero = vbslq_f32(vdupq_n_u32(1u << 31), x, shrink);  // shrink with the sign of x
        x = vsubq_f32(x, keep(toward_zero, nonzero(x)));
      }
      vst1q_f32(&z[c][l], vmulq_f32(x, step));
    }
  }
}

// e^x to a few units in the last place (Cody and Waite's reduction, Taylor's polynomial of degree 6).
inline float32x4_t exponential(float32x4_t x) {
  x = vmaxq_f32(vminq_f32(x, vdupq_n_f32(88.0f)), vdupq_n_f32(-87.0f));
  const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)));
  float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693359375f));
  r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
  float32x4_t p = vdupq_n_f32(1.0f / 720);
  constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float c : kTaylor) p = vfmaq_f32(vdupq_n_f32(c), p, r);
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vmulq_f32(p, vreinterpretq_f32_s32(power));
}

inline float32x4_t silu(float32x4_t x) { return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1), exponential(vnegq_f32(x)))); }

// u = (u - mean) / sqrt(var + 1e-5) * gain + bias, over the w rows, for 4 lanes.
void normalise(const float* gain, const float* bias, uint32_t w, uint32_t l, Row* u) {
  const float32x4_t over_w = vdupq_n_f32(1.0f / static_cast<float>(w));
  float32x4_t sum = vdupq_n_f32(0), squares = vdupq_n_f32(0);
  for (uint32_t i = 0; i < w; ++i) sum = vaddq_f32(sum, vld1q_f32(&u[i][l]));
  const float32x4_t mean = vmulq_f32(sum, over_w);
  for (uint32_t i = 0; i < w; ++i) {
    const float32x4_t d = vsubq_f32(vld1q_f32(&u[i][l]), mean);
    squares = vfmaq_f32(squares, d, d);
  }
  const float32x4_t deviation = vsqrtq_f32(vfmaq_f32(vdupq_n_f32(1e-5f), squares, over_w));
  const float32x4_t factor = vdivq_f32(vdupq_n_f32(1), deviation);
  for (uint32_t i = 0; i < w; ++i) {
    const float32x4_t d = vmulq_f32(vsubq_f32(vld1q_f32(&u[i][l]), mean), factor);
    vst1q_f32(&u[i][l], vfmaq_f32(vdupq_n_f32(bias[i]), d, vdupq_n_f32(gain[i])));
  }
}

// e[level[0..3]]
inline float32x4_t embedding(const float* e, const uint8_t* level) {
  float32x4_t x = vld1q_dup_f32(e + level[0]);
  x = vld1q_lane_f32(e + level[1], x, 1);
  x = vld1q_lane_f32(e + level[2], x, 2);
  return vld1q_lane_f32(e + level[3], x, 3);
}

// h = (h + act(u)) * E, for 4 lanes.
void activate(const SynthesisView& net, const float* e, const ColumnGroup& g, uint32_t l, const Row* u, Row* x) {
  for (uint32_t i = 0; i < net.width; ++i) {
    float32x4_t a = vld1q_f32(&u[i][l]);
    a = net.silu ? silu(a) : vmaxq_f32(a, vdupq_n_f32(0));
    a = vaddq_f32(a, vld1q_f32(&x[i][l]));
    vst1q_f32(&x[i][l], vmulq_f32(a, embedding(e + size_t{i} * net.level_stride, &g.level[l])));
  }
}

inline uint16x4_t to_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}

template <Dtype kDtype>
void store_rows(const LaneWeights& y, const ColumnGroup& g, const StoreTarget& t) {
  constexpr uint32_t kSize = kDtype == Dtype::kF32 ? 4 : 2;
  for (uint32_t l = 0; l < g.active; l += 8) {
    const uint32_t count = g.active - l < 8 ? g.active - l : 8;
    const float32x4_t column_scale[2] = {vld1q_f32(&g.scale[l]), vld1q_f32(&g.scale[l + 4])};
    const uint32x4_t scaled[2] = {nonzero(column_scale[0]), nonzero(column_scale[1])};
    for (uint32_t r = t.row_begin; r < t.row_end; ++r) {
      const float row_scale = t.row_scale == nullptr ? 1.0f : t.row_scale[r];
      float32x4_t weight[2];
      for (uint32_t h = 0; h < 2; ++h) {
        const float32x4_t scale = vmulq_n_f32(column_scale[h], row_scale);
        weight[h] = keep(vmulq_f32(vld1q_f32(&y.y[r][l + 4 * h]), scale), scaled[h]);
      }
      uint8_t whole[32];
      uint8_t* row = t.out + (r - t.row_begin) * t.stride + size_t{l} * kSize;
      uint8_t* to = count == 8 ? row : whole;
      if constexpr (kDtype == Dtype::kF32) {
        vst1q_u8(to, vreinterpretq_u8_f32(weight[0]));
        vst1q_u8(to + 16, vreinterpretq_u8_f32(weight[1]));
      } else if constexpr (kDtype == Dtype::kBf16) {
        vst1q_u8(to, vreinterpretq_u8_u16(vcombine_u16(to_bf16(weight[0]), to_bf16(weight[1]))));
      } else {
        vst1q_u8(to, vreinterpretq_u8_f16(vcvt_high_f16_f32(vcvt_f16_f32(weight[0]), weight[1])));
      }
      if (count != 8) __builtin_memcpy(row, whole, size_t{count} * kSize);
    }
  }
}

}  // namespace

void features_group_neon(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
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
    for (uint32_t l = 0; l < kNumLanes; l += 4) {
      if (net.layer_norm) normalise(net.gain + at, net.bias + at, w, l, u);
      activate(net, net.E + at * net.level_stride, group, l, u, x);
    }
  }
}

void feature_product_neon(const FeatureBlock& block, const float* matrix, float* out) {
  float32x4_t y[4];
  for (uint32_t h = 0; h < 4; ++h) y[h] = vld1q_f32(out + 4 * h);
  for (uint32_t i = 0; i < block.count; i += 16) {
    float32x4_t sum[16];
    for (float32x4_t& s : sum) s = vdupq_n_f32(0);
    for (uint32_t slot = 0; slot < block.slots; ++slot) {
      const float* feature = block.features + (size_t{slot} * block.count + i) * kNumLanes;
      for (uint32_t l = 0; l < kNumLanes; l += 4) {
        const float32x4_t factor = vld1q_f32(block.factor + slot * block.factor_stride + l);
        const uint32x4_t use = nonzero(factor);
        for (uint32_t r = 0; r < 16; ++r)
          sum[r] = vfmaq_f32(sum[r], keep(vld1q_f32(feature + r * kNumLanes + l), use), factor);
      }
    }
    for (uint32_t h = 0; h < 4; ++h) {
      const float32x4_t* s = sum + 4 * h;
      const float32x4_t t = vpaddq_f32(vpaddq_f32(s[0], s[1]), vpaddq_f32(s[2], s[3]));
      if (matrix == nullptr) {
        y[h] = vaddq_f32(y[h], t);
        continue;
      }
      for (uint32_t o = 0; o < 4; ++o) {
        const float* column = matrix + 4 * o;
        y[o] = vfmaq_laneq_f32(y[o], vld1q_f32(column), t, 0);
        y[o] = vfmaq_laneq_f32(y[o], vld1q_f32(column + kChunk), t, 1);
        y[o] = vfmaq_laneq_f32(y[o], vld1q_f32(column + 2 * kChunk), t, 2);
        y[o] = vfmaq_laneq_f32(y[o], vld1q_f32(column + 3 * kChunk), t, 3);
      }
      matrix += 4 * kChunk;
    }
  }
  for (uint32_t h = 0; h < 4; ++h) vst1q_f32(out + 4 * h, y[h]);
}

void synthesize_group_neon(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                           LaneWeights* out) {
  if (net.identity) return dequantize(group, q, out->y);
  features_group_neon(net, group, q, scratch);
  const Row* z = reinterpret_cast<const Row*>(scratch);
  if (net.width == 0) return multiply(net.S, nullptr, z, kChunk, kChunk, out->y);
  multiply(net.C, net.c, z + kChunk, net.width, kChunk, out->y);
  multiply<true>(net.S, nullptr, z, kChunk, kChunk, out->y);
}

void store_group_neon(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  switch (target.dtype) {
    case Dtype::kF16: return store_rows<Dtype::kF16>(y, group, target);
    case Dtype::kBf16: return store_rows<Dtype::kBf16>(y, group, target);
    default: return store_rows<Dtype::kF32>(y, group, target);
  }
}

}  // namespace nwc
#endif
