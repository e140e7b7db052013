// Quantizers of one block, equal to ggml's reference (ggml-quants.c, quantize_row_*_ref, b11739) to the bit: its
// operations in its order, each rounded. ggml compiled so that products and sums contract to fused multiply-adds (GCC
// on AArch64, or with -march=native) differs from itself, and from this, in single integers of rare blocks.
//
// Q4_K, Q5_K and Q6_K try many scales for a group of weights, and every sum runs over the group in order. What is
// independent makes the lanes of vectors here: the groups of a block (Q4_K, Q5_K), or the scales (Q6_K).
#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "trainer/data/gguf_blocks.h"

namespace nwc::gguf_blocks {
namespace {

void store_f16(uint8_t* out, float value) { store_le(out, f32_to_f16(value)); }

/// To nearest, ties to even, of magnitudes below 2^22; of what does not fit, what ggml's reference takes for it.
int32_t round_to_int(float value) { return (std::bit_cast<int32_t>(value + 12582912.f) & 0x007fffff) - 0x00400000; }

/// As x86 converts: what no int32_t holds becomes a number whose low byte is 0.
uint8_t low_byte(float value) {
  if (!(std::fabs(value) < 2147483648.f)) return 0;
  return static_cast<uint8_t>(static_cast<int32_t>(value));
}

/// Of std::round: to nearest, halves away from zero.
uint8_t low_byte_of_nearest(float value) {
  if (!(std::fabs(value) < 2147483648.f)) return 0;
  const auto whole = static_cast<int32_t>(value);
  const float rest = value - static_cast<float>(whole);  // exact
  return static_cast<uint8_t>(whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0));
}

float reciprocal(float value) { return value != 0 ? 1.f / value : 0.f; }

// 32 integers of five bits: low nibbles, and a mask of fifth bits.
void store_five_bits(const uint8_t* values, uint8_t* mask, uint8_t* nibbles) {
  uint32_t high = 0;
  for (uint32_t j = 0; j < 16; ++j) {
    nibbles[j] = static_cast<uint8_t>((values[j] & 15) | (values[j + 16] & 15) << 4);
    high |= bits(values[j], 4, 1) << j | bits(values[j + 16], 4, 1) << (j + 16);
  }
  store_le(mask, high);
}

/// Groups of 32 weights of a block. They do not depend on one another, and are the lanes of a vector (an extension that
/// GCC and Clang have for every processor).
constexpr uint32_t kGroups = 8;
using Lanes = float __attribute__((vector_size(4 * kGroups)));
using IntegerLanes = int32_t __attribute__((vector_size(4 * kGroups)));

struct AffineGroups {
  Lanes scale, minimum;  ///< value = scale * integer - minimum
  uint8_t integers[32 * kGroups];
};

// Least squares of each group over scale and minimum, weighted by the root mean square plus the magnitude. A first
// scale spreads the integers 0 to max over the range. Then, for `steps` + 1 scales about it: the integers, the best
// pair for these, and the least error wins. The search goes on from the minimum that is the best so far.
void fit_affine(const float* values, int32_t max, float first_step, uint32_t steps, AffineGroups* out) {
  constexpr uint32_t kCount = 32;
  Lanes x[kCount], weights[kCount], integers[kCount], tried[kCount], squares{};
  for (uint32_t i = 0; i < kCount; ++i) {
    for (uint32_t g = 0; g < kGroups; ++g) x[i][g] = values[kCount * g + i];
    squares += x[i] * x[i];
  }
  Lanes root_mean_square = squares / static_cast<float>(kCount);
  for (uint32_t g = 0; g < kGroups; ++g) root_mean_square[g] = std::sqrt(root_mean_square[g]);
  for (uint32_t i = 0; i < kCount; ++i) weights[i] = root_mean_square + (x[i] < 0 ? -x[i] : x[i]);

  Lanes low = x[0], high = x[0], sum_w = weights[0], sum_x = weights[0] * x[0];
  for (uint32_t i = 1; i < kCount; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const Lanes zero{};
  low = low > 0 ? zero : low;
  const Lanes first_low = low;
  const float fmax = static_cast<float>(max);
  Lanes inverse = fmax / (high - low);
  const IntegerLanes none{}, most = none + max;
  const auto to_integers = [&](const Lanes& v, Lanes* integer) {
    const Lanes shifted = inverse * (v - low) + 12582912.f;  // as in round_to_int
    IntegerLanes l = reinterpret_cast<IntegerLanes>(shifted);
    l = (l & 0x007fffff) - 0x00400000;
    l = l < none ? none : l;
    *integer = __builtin_convertvector(l > most ? most : l, Lanes);
  };
  Lanes scale = 1 / inverse, best{};
  for (uint32_t i = 0; i < kCount; ++i) {
    to_integers(x[i], &integers[i]);
    const Lanes difference = scale * integers[i] + low - x[i];
    best += weights[i] * (difference * difference);
  }
  for (uint32_t s = 0; s <= steps; ++s) {
    Lanes sum_l{}, sum_l2{}, sum_xl{}, error{};
    inverse = (first_step + 0.1f * static_cast<float>(s) + fmax) / (high - low);
    for (uint32_t i = 0; i < kCount; ++i) {
      to_integers(x[i], &tried[i]);
      const Lanes weighted = weights[i] * tried[i];
      sum_l += weighted;
      sum_l2 += weighted * tried[i];
      sum_xl += weighted * x[i];
    }
    const Lanes determinant = sum_w * sum_l2 - sum_l * sum_l;
    Lanes new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    Lanes new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    new_scale = new_low > 0 ? sum_xl / sum_l2 : new_scale;
    new_low = new_low > 0 ? zero : new_low;
    for (uint32_t i = 0; i < kCount; ++i) {
      const Lanes difference = new_scale * tried[i] + new_low - x[i];
      error += weights[i] * (difference * difference);
    }
    const IntegerLanes better = (determinant > 0) & (error < best);
    best = better ? error : best;
    scale = better ? new_scale : scale;
    low = better ? new_low : low;
    for (uint32_t i = 0; i < kCount; ++i) integers[i] = better ? tried[i] : integers[i];
  }
  const IntegerLanes flat = high == first_low;
  out->scale = flat ? zero : scale;
  out->minimum = -(flat ? first_low : low);
  for (uint32_t i = 0; i < kCount; ++i) {
    for (uint32_t g = 0; g < kGroups; ++g) {
      out->integers[kCount * g + i] = flat[g] != 0 ? uint8_t{0} : static_cast<uint8_t>(integers[i][g]);
    }
  }
}

// The inverse of unpack_scale (gguf_blocks_k.cpp).
void pack_scales(const uint8_t (&scales)[8], const uint8_t (&minimums)[8], uint8_t* packed) {
  for (uint32_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
    packed[j + 4] = static_cast<uint8_t>(minimums[j] | (minimums[j + 4] >> 4) << 6);
    packed[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (minimums[j + 4] & 15) << 4);
  }
}

// The layout is decode_k45's.
template <bool kHighBits>
void encode_k45(const float* x, uint8_t* block) {
  constexpr int32_t kMax = kHighBits ? 31 : 15;
  AffineGroups groups;
  fit_affine(x, kMax, kHighBits ? -0.5f : -1.f, kHighBits ? 15 : 20, &groups);
  uint8_t* integers = groups.integers;
  float max_scale = 0, max_minimum = 0;
  for (uint32_t g = 0; g < kGroups; ++g) {
    if (groups.scale[g] > max_scale) max_scale = groups.scale[g];
    if (groups.minimum[g] > max_minimum) max_minimum = groups.minimum[g];
  }
  const float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0.f;
  const float inverse_minimum = max_minimum > 0 ? 63.f / max_minimum : 0.f;
  uint8_t scales[8], minimums[8];
  const auto six_bits = [](float value) { return std::min(static_cast<uint8_t>(round_to_int(value)), uint8_t{63}); };
  for (uint32_t g = 0; g < 8; ++g) {
    scales[g] = six_bits(inverse_scale * groups.scale[g]);
    minimums[g] = six_bits(inverse_minimum * groups.minimum[g]);
  }
  store_f16(block, max_scale / 63.f);
  store_f16(block + 2, max_minimum / 63.f);
  pack_scales(scales, minimums, block + 4);
  // The integers once more, for the scale and minimum as they are stored.
  for (uint32_t g = 0; g < 8; ++g) {
    const float scale = load_f16(block) * static_cast<float>(scales[g]);
    if (scale == 0) continue;
    const float minimum = load_f16(block + 2) * static_cast<float>(minimums[g]);
    for (uint32_t i = 32 * g; i < 32 * g + 32; ++i) {
      integers[i] = static_cast<uint8_t>(std::clamp(round_to_int((x[i] + minimum) / scale), 0, kMax));
    }
  }
  uint8_t* masks = block + 16;
  uint8_t* nibbles = block + (kHighBits ? 48 : 16);
  if (kHighBits) std::memset(masks, 0, 32);
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t group = i / 32, j = i % 32;
    uint8_t& byte = nibbles[32 * (group / 2) + j];
    byte = static_cast<uint8_t>(group % 2 == 0 ? integers[i] & 15 : byte | (integers[i] & 15) << 4);
    if (kHighBits) masks[j] = static_cast<uint8_t>(masks[j] | (integers[i] >> 4) << group);
  }
}

constexpr float kAllZero = 1e-15f;  ///< largest magnitudes below count as nothing

// Integers -32 to 31 (stored with 32 added) and their scale for 16 values, weighted by the values' squares: 19 scales
// about the one that takes the largest value to -32, then the best scale for the integers.
float fit_symmetric(const float* x, uint8_t* integers) {
  constexpr uint32_t kCount = 16, kSteps = 19, kLanes = 24;  // whole vectors; what lies beyond is not looked at
  float magnitude = 0, largest = 0;
  for (uint32_t i = 0; i < kCount; ++i) {
    if (std::fabs(x[i]) > magnitude) {
      magnitude = std::fabs(x[i]);
      largest = x[i];
    }
  }
  if (magnitude < kAllZero) {
    std::fill_n(integers, kCount, uint8_t{0});
    return 0;
  }
  // The middle one first, then from below; a later one has to be better.
  std::array<float, kLanes> inverses{}, sum_xl{}, sum_l2{};
  inverses[0] = -32.f / largest;
  for (uint32_t s = 1; s < kSteps; ++s) {
    const int32_t step = static_cast<int32_t>(s) - (s < 10 ? 10 : 9);
    inverses[s] = -(32.f + 0.1f * static_cast<float>(step)) / largest;
  }
  const auto integer = [](float inverse, float value) { return std::clamp(round_to_int(inverse * value), -32, 31); };
  for (uint32_t i = 0; i < kCount; ++i) {
    const float weight = x[i] * x[i];
    for (uint32_t s = 0; s < kLanes; ++s) {
      const float l = static_cast<float>(integer(inverses[s], x[i]));
      sum_xl[s] += weight * x[i] * l;
      sum_l2[s] += weight * l * l;
    }
  }
  uint32_t chosen = 0;
  float scale = sum_l2[0] != 0 ? sum_xl[0] / sum_l2[0] : 0.f;
  float best = scale * sum_xl[0];
  for (uint32_t s = 1; s < kSteps; ++s) {
    if (!(sum_l2[s] > 0 && sum_xl[s] * sum_xl[s] > best * sum_l2[s])) continue;
    scale = sum_xl[s] / sum_l2[s];
    best = scale * sum_xl[s];
    chosen = s;
  }
  for (uint32_t i = 0; i < kCount; ++i) integers[i] = static_cast<uint8_t>(integer(inverses[chosen], x[i]) + 32);
  return scale;
}

}  // namespace

void encode_q8_0(const float* x, uint8_t* block) {
  float magnitude = 0;
  for (uint32_t i = 0; i < 32; ++i) magnitude = std::max(magnitude, std::fabs(x[i]));
  const float scale = magnitude / 127, inverse = reciprocal(scale);
  store_f16(block, scale);
  for (uint32_t i = 0; i < 32; ++i) block[2 + i] = low_byte_of_nearest(x[i] * inverse);
}

void encode_q5_0(const float* x, uint8_t* block) {
  float magnitude = 0, largest = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    if (magnitude < std::fabs(x[i])) {
      magnitude = std::fabs(x[i]);
      largest = x[i];
    }
  }
  const float scale = largest / -16, inverse = reciprocal(scale);
  store_f16(block, scale);
  uint8_t integers[32];
  for (uint32_t i = 0; i < 32; ++i) {
    const auto value = static_cast<int8_t>(low_byte(x[i] * inverse + 16.5f));
    integers[i] = static_cast<uint8_t>(std::min<int8_t>(31, value));
  }
  store_five_bits(integers, block + 2, block + 6);
}

void encode_q5_1(const float* x, uint8_t* block) {
  float low = FLT_MAX, high = -FLT_MAX;
  for (uint32_t i = 0; i < 32; ++i) {
    if (x[i] < low) low = x[i];
    if (x[i] > high) high = x[i];
  }
  const float scale = (high - low) / 31, inverse = reciprocal(scale);
  store_f16(block, scale);
  store_f16(block + 2, low);
  uint8_t integers[32];
  for (uint32_t i = 0; i < 32; ++i) integers[i] = low_byte((x[i] - low) * inverse + 0.5f);
  store_five_bits(integers, block + 4, block + 8);
}

void encode_q4_k(const float* x, uint8_t* block) { encode_k45<false>(x, block); }
void encode_q5_k(const float* x, uint8_t* block) { encode_k45<true>(x, block); }

// The layout is decode_q6_k's.
void encode_q6_k(const float* x, uint8_t* block) {
  uint8_t integers[256];
  float scales[16], max_scale = 0, magnitude = 0;
  for (uint32_t g = 0; g < 16; ++g) {
    scales[g] = fit_symmetric(x + 16 * g, integers + 16 * g);
    if (std::fabs(scales[g]) > magnitude) {
      magnitude = std::fabs(scales[g]);
      max_scale = scales[g];
    }
  }
  std::memset(block, 0, 210);
  if (magnitude < kAllZero) return;
  const float inverse = -128.f / max_scale;
  store_f16(block + 208, 1 / inverse);
  for (uint32_t g = 0; g < 16; ++g) {
    block[192 + g] = static_cast<uint8_t>(std::min(round_to_int(inverse * scales[g]), 127));
    const float scale = load_f16(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + g]));
    if (scale == 0) continue;
    for (uint32_t i = 16 * g; i < 16 * g + 16; ++i) {
      integers[i] = static_cast<uint8_t>(std::clamp(round_to_int(x[i] / scale), -32, 31) + 32);
    }
  }
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t half = i / 128, group = i / 32 % 4, j = i % 32;
    uint8_t& nibbles = block[64 * half + 32 * (group % 2) + j];
    uint8_t& upper = block[128 + 32 * half + j];
    nibbles = static_cast<uint8_t>(nibbles | (integers[i] & 15) << (group < 2 ? 0 : 4));
    upper = static_cast<uint8_t>(upper | (integers[i] >> 4) << (2 * group));
  }
}

}  // namespace nwc::gguf_blocks
