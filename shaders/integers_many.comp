#version 450
// y[t][r] = sum_j x[t][j] W[r][j] for many tokens, W as units of integers: common/matmul_tile.glsl. Must match
// multiply_integers (runtime/engine/integer_product.h) within rounding; inputs are f32 here.
// Bindings: 0 units, 3 everything behind them.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/integers.glsl"
#include "common/push_constants.h"

layout(constant_id = 0) const uint kShrinks = 0;
layout(std430, set = 0, binding = 0) readonly buffer Units { uvec4 wide_units[]; };
layout(std430, set = 0, binding = 3) readonly buffer Rest { uint rest[]; };
layout(push_constant) uniform Parameters { IntegersPush pc; };

const uint kDepth = kUnitCols;
#include "common/matmul_tile.glsl"

float rest_number(uint at) { return uintBitsToFloat(rest[at]); }

// Four rows from `row` of the tile on, four columns from `column` of the unit on.
void put_words(uvec4 words, uint bias, uint row, uint depth, uint column) {
  [[unroll]] for (uint r = 0u; r < 4u; ++r) {
    const vec4 q = word_numbers(words[r], bias);
    [[unroll]] for (uint c = 0u; c < 4u; ++c) {
      const uint j = depth + column + c;
      float w = q[c] * rest_number(pc.factor_at + j);
      if (kShrinks != 0u) w -= sign(q[c]) * rest_number(pc.shrink_at + j);
      w_tile[(column + c) * (kTileRows + 1u) + row + r] = w;
    }
  }
}

// The tile has four row blocks; of each, an invocation takes one of eight groups of columns and four rows.
void load_weights(uint row0, uint depth) {
  const uint self = gl_LocalInvocationIndex;
  const uint four = self & 3u, group = (self >> 2) & 7u, own = self >> 5;
  const uint num_blocks = (pc.rows + kChunk - 1u) / kChunk;
  const uint block = min(row0 / kChunk + own, num_blocks - 1u);
  const uint entry = rest[pc.units_at + depth / kUnitCols];
  const uint bits = unit_bits(entry);
  const uint at = pc.weight_at + block * pc.block_wide + unit_wide(entry);
  uvec4 words;
  if (bits == 8u) {
    words = wide_units[at + 4u * group + four];
  } else {
    const uvec4 low = wide_units[at + 4u * (group >> 1) + four];
    const uvec4 high = bits == 4u ? uvec4(0u) : wide_units[at + 4u * upper_block(bits, group) + four];
    words = join_words(bits, group, low, high);
  }
  put_words(words, unit_bias(entry), own * kChunk + 4u * four, depth, 4u * group);
}

void finish(uint row, uint token) {
  const uint block = row / kChunk;
  if (block * kChunk >= pc.rows) return;
  const uint end = rest[pc.ranges_at + 2u * block + 1u];
  for (uint i = rest[pc.ranges_at + 2u * block]; i < end; ++i) {
    const uint outlier = rest[pc.outliers_at + i];
    const uint r = outlier_row(outlier) - row % kChunk;
    if (r >= 4u) continue;
    const uint column = outlier_column(outlier);
    const float w = rest_number(pc.factor_at + column) * float(outlier_rest(outlier));
    [[unroll]] for (uint t = 0u; t < 4u; ++t) {
      const float more = w * x[input_row(token + t) + column];
      [[unroll]] for (uint k = 0u; k < 4u; ++k) sum[4u * t + k] += k == r ? more : 0.0;
    }
  }
  [[unroll]] for (uint k = 0u; k < 4u; ++k) {
    const float scale = row + k < pc.rows ? rest_number(pc.row_scale_at + row + k) : 0.0;
    [[unroll]] for (uint t = 0u; t < 4u; ++t) sum[4u * t + k] *= scale;
  }
}

void main() { multiply_tile(); }
