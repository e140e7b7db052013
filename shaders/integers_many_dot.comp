#version 450
// The same as integers_many.comp with dot products of bytes (common/integers_dot.glsl), a block of columns at a time:
// results are the CPU's but for outliers, which take inputs as they are.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/push_constants.h"
#include "common/integers_product.glsl"
#include "common/integers_dot.glsl"

layout(constant_id = 0) const uint kShrinks = 0;

#include "common/matmul_sums.glsl"
#include "common/integers_tile.glsl"

// [four columns][token] and [four columns][row]; a column of padding against bank conflicts.
const uint kTokenStride = kTileTokens + 1u, kRowStride = kTileRows + 1u;
shared uvec2 x_tile[kVectorsPerBlock * kTokenStride];
shared uint w_tile[kVectorsPerBlock * kRowStride];
shared uint most[kTileTokens * 4u];
shared float scales[kTileTokens];

// Units of the block to w_tile; of those behind the last, 0.
void load_weights(uint unit0) {
  const TilePart part = tile_part(first_row());
  [[unroll]] for (uint u = 0u; u < kUnitsPerBlock; ++u) {
    uvec4 words = uvec4(0u);
    if (unit0 + u < pc.num_units) {
      const uint entry = rest[pc.units_at + unit0 + u], bits = unit_bits(entry);
      words = load_words(part.weight_at + unit_wide(entry), bits, part.group, part.four);
      words = signed_words(words, bits, unit_bias(entry));
    }
    const uint at = (u * (kUnitCols / 4u) + part.group) * kRowStride + part.own_row;
    [[unroll]] for (uint r = 0u; r < 4u; ++r) w_tile[at + r] = words[r];
  }
}

// The block's columns from `depth` on, times their factors, to x_tile: four invocations a token.
void load_inputs(uint depth, uint factor_at) {
  const uint token = gl_LocalInvocationIndex >> 2, part = gl_LocalInvocationIndex & 3u;
  const uint from = input_row(first_token() + token);
  vec4 v[kVectorsPerBlock / 4u];
  uint largest = 0u;
  [[unroll]] for (uint k = 0u; k < kVectorsPerBlock / 4u; ++k) {
    [[unroll]] for (uint c = 0u; c < 4u; ++c) {
      const uint column = depth + 4u * (part + 4u * k) + c;
      const float factor = column < pc.cols ? rest_number(factor_at + column) : 0.0;
      v[k][c] = factor != 0.0 ? factor * x[from + column] : 0.0;
    }
    largest = max(largest, largest_bits(v[k]));
  }
  most[4u * token + part] = largest;
  barrier();
  const uint of_token =
      max(max(most[4u * token], most[4u * token + 1u]), max(most[4u * token + 2u], most[4u * token + 3u]));
  [[unroll]] for (uint k = 0u; k < kVectorsPerBlock / 4u; ++k)
    x_tile[(part + 4u * k) * kTokenStride + token] = to_digits(v[k], of_token);
  if (part == 0u) scales[token] = input_scale(of_token);
  barrier();
}

void multiply_block(bool signs) {
  DigitSums dots[4];
  for (uint t = 0u; t < 4u; ++t) dots[t] = DigitSums(ivec4(0), ivec4(0));
  for (uint j = 0u; j < kVectorsPerBlock; ++j) {
    uvec4 words;
    [[unroll]] for (uint r = 0u; r < 4u; ++r) words[r] = w_tile[j * kRowStride + own_row() + r];
    if (signs) words = sign_words(words);
    [[unroll]] for (uint t = 0u; t < 4u; ++t) add_dots(dots[t], words, x_tile[j * kTokenStride + own_token() + t]);
  }
  [[unroll]] for (uint t = 0u; t < 4u; ++t) {
    const vec4 product = vec4(join_digits(dots[t])) * scales[own_token() + t];
    [[unroll]] for (uint r = 0u; r < 4u; ++r) sum[4u * t + r] += signs ? -product[r] : product[r];
  }
  barrier();
}

void main() {
  for (uint i = 0u; i < 16u; ++i) sum[i] = 0.0;
  [[dont_unroll]] for (uint unit0 = 0u; unit0 < pc.num_units; unit0 += kUnitsPerBlock) {
    load_weights(unit0);
    load_inputs(unit0 * kUnitCols, pc.factor_at);
    multiply_block(false);
    if (kShrinks != 0u) {
      load_inputs(unit0 * kUnitCols, pc.shrink_at);
      multiply_block(true);
    }
  }
  finish(first_row() + own_row(), first_token() + own_token());
  write_sums();
}
