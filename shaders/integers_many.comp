#version 450
// y[t][r] = sum_j x[t][j] W[r][j] for many tokens, W as units of integers: common/matmul_tile.glsl. Must match
// multiply_integers (runtime/engine/integer_product.h) within rounding; inputs are f32 here.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/push_constants.h"
#include "common/integers_product.glsl"

layout(constant_id = 0) const uint kShrinks = 0;
layout(constant_id = 1) const uint kScaled = 0;  // there are block scales

const uint kDepth = kUnitCols;
#include "common/matmul_tile.glsl"
#include "common/integers_tile.glsl"

// Four rows from `row` of the tile on, with these block scales, four columns from `column` of the unit on.
void put_words(uvec4 words, uint bias, vec4 scale, uint row, uint depth, uint column) {
  [[unroll]] for (uint r = 0u; r < 4u; ++r) {
    const vec4 q = word_numbers(words[r], bias);
    [[unroll]] for (uint c = 0u; c < 4u; ++c) {
      const uint j = depth + column + c;
      float w = q[c] * rest_number(pc.factor_at + j);
      if (kShrinks != 0u) w -= sign(q[c]) * rest_number(pc.shrink_at + j);
      if (kScaled != 0u) w *= scale[r];
      w_tile[(column + c) * (kTileRows + 1u) + row + r] = w;
    }
  }
}

void load_weights(uint row0, uint depth) {
  const TilePart part = tile_part(row0);
  const uint entry = rest[pc.units_at + depth / kUnitCols];
  const uvec4 words = load_words(part.weight_at + unit_wide(entry), unit_bits(entry), part.group, part.four);
  const vec4 scale = kScaled != 0u ? load_scales(part.weight_at, depth / kUnitCols, part.four) : vec4(1.0);
  put_words(words, unit_bias(entry), scale, part.own_row, depth, 4u * part.group);
}

void main() { multiply_tile(); }
