// Twin of the scalar dot() in integer_kernels.cpp for NEON: four products of one row at a time, in 32 bits.
#if defined(__aarch64__)

#include <arm_neon.h>

#include "runtime/engine/integer_kernels_outliers.h"

namespace nwc {
namespace {

/// Group g of a unit. The readable form is unpack_unit in runtime/codec/integer_decode.cpp.
inline uint8x16_t load_rows(const uint8_t* unit, uint32_t bits, uint32_t g, uint32_t at) {
  if (bits == 8) return vld1q_u8(unit + 64 * g + at);
  const uint8x16_t both = vld1q_u8(unit + 32 * (g & ~1u) + at);
  uint8x16_t rows = g % 2 == 0 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4);
  if (bits == 4) return rows;
  const uint32_t width = bits - 4, groups = 8 / width;
  const int8_t shift = static_cast<int8_t>(4 - static_cast<int>(width * (g % groups)));
  const uint8x16_t upper = vshlq_u8(vld1q_u8(unit + 256 + 64 * (g / groups) + at), vdupq_n_s8(shift));
  return vorrq_u8(rows, vandq_u8(upper, vdupq_n_u8(static_cast<uint8_t>(((1u << width) - 1) << 4))));
}

/// Four columns of four rows.
[[gnu::always_inline]] inline void add_rows(uint8x16_t rows, int16x4_t four, int32x4_t* sum) {
  const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(rows)));
  const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(rows)));
  sum[0] = vmlal_s16(sum[0], vget_low_s16(low), four);
  sum[1] = vmlal_s16(sum[1], vget_high_s16(low), four);
  sum[2] = vmlal_s16(sum[2], vget_low_s16(high), four);
  sum[3] = vmlal_s16(sum[3], vget_high_s16(high), four);
}

/// Of four rows, and what comes on top.
[[gnu::always_inline]] inline float32x4_t row_sums(const int32x4_t* sum, int32x4_t more) {
  const int32x4_t a = vpaddq_s32(sum[0], sum[1]), b = vpaddq_s32(sum[2], sum[3]);
  return vcvtq_f32_s32(vaddq_s32(vpaddq_s32(a, b), more));
}

template <bool kSigns>
void dot_token(const IntegerRowBlock& weights, const IntegerInputs& inputs, float* y) {
  float32x4_t total[4];
  for (float32x4_t& t : total) t = vdupq_n_f32(0);
  const uint8_t* unit = weights.units;
  const int16_t* x = inputs.value;
  const uint32_t* outlier = weights.outliers;
  for (uint32_t first = 0; first < weights.num_units; first += kUnitsPerBlock) {
    const uint32_t block = first / kUnitsPerBlock;
    uint32_t beyond[1][kIntegerRows];
    const bool any_beyond = !kSigns && outlier_sums<1>(weights, &inputs, block, &outlier, beyond);
    int32x4_t sum[kIntegerRows];
    for (int32x4_t& s : sum) s = vdupq_n_s32(0);
    const uint32_t left = weights.num_units - first, units = left < kUnitsPerBlock ? left : kUnitsPerBlock;
    for (uint32_t u = 0; u < units; ++u) {
      const uint32_t bits = weights.bits[first + u];
      for (uint32_t g = 0; g < 8; ++g, x += 4) {
        const int16x4_t four = vld1_s16(x);
        for (uint32_t r = 0; r < kIntegerRows; r += 4) {
          uint8x16_t rows = load_rows(unit, bits, g, 4 * r);
          if (kSigns) {
            const uint8x16_t low = vdupq_n_u8(static_cast<uint8_t>((1u << (bits - 1)) - 1));
            rows = vsubq_u8(vminq_u8(vmaxq_u8(rows, low), vaddq_u8(low, vdupq_n_u8(2))), low);
          }
          add_rows(rows, four, sum + r);
        }
      }
      unit += 64 * bits;
    }
    for (uint32_t h = 0; h < 4; ++h) {
      int32x4_t more = vdupq_n_s32(inputs.correction[block]);
      if (any_beyond) more = vaddq_s32(more, vreinterpretq_s32_u32(vld1q_u32(beyond[0] + 4 * h)));
      total[h] = vfmaq_n_f32(total[h], row_sums(sum + 4 * h, more), inputs.scale[block]);
    }
  }
  for (uint32_t h = 0; h < 4; ++h) vst1q_f32(y + 4 * h, total[h]);
}

template <bool kSigns>
void dot(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens, float (*y)[kIntegerRows]) {
  for (uint32_t t = 0; t < tokens; ++t) dot_token<kSigns>(weights, inputs[t], y[t]);
}

void dot_scaled_token(const IntegerRowBlock& weights, const IntegerInputs& inputs, float* y) {
  float32x4_t total[4], in_block[4];
  for (uint32_t h = 0; h < 4; ++h) total[h] = in_block[h] = vdupq_n_f32(0);
  const uint8_t* unit = weights.units;
  const int16_t* x = inputs.value;
  for (uint32_t u = 0; u < weights.num_units; ++u, unit += 512) {
    int32x4_t sum[kIntegerRows];
    for (int32x4_t& s : sum) s = vdupq_n_s32(0);
    for (uint32_t g = 0; g < 8; ++g, x += 4) {
      const int16x4_t four = vld1_s16(x);
      for (uint32_t r = 0; r < kIntegerRows; r += 4) add_rows(vld1q_u8(unit + 64 * g + 4 * r), four, sum + r);
    }
    const bool last = u % kUnitsPerBlock == kUnitsPerBlock - 1 || u + 1 == weights.num_units;
    for (uint32_t h = 0; h < 4; ++h) {
      const uint32x4_t scales = vshll_n_u16(vld1_u16(weights.scales + size_t{16} * u + 4 * h), 16);
      in_block[h] = vfmaq_f32(in_block[h], row_sums(sum + 4 * h, vdupq_n_s32(inputs.correction[u])),
                              vreinterpretq_f32_u32(scales));
      if (!last) continue;
      total[h] = vfmaq_n_f32(total[h], in_block[h], inputs.scale[u / kUnitsPerBlock]);
      in_block[h] = vdupq_n_f32(0);
    }
  }
  for (uint32_t h = 0; h < 4; ++h) vst1q_f32(y + 4 * h, total[h]);
}

void dot_scaled(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                float (*y)[kIntegerRows]) {
  for (uint32_t t = 0; t < tokens; ++t) dot_scaled_token(weights, inputs[t], y[t]);
}

}  // namespace

const IntegerKernels kNeonIntegers = {false, dot<false>, dot<true>, dot_scaled};

}  // namespace nwc
#endif
