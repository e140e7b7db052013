#version 450
// y[t][r] = sum_j x[t][j] W[r][j] for up to 8 tokens, W as units of integers: memory-bound, every weight is read once. Must
// match multiply_integers (runtime/engine/integer_product.h) within rounding; inputs are f32 here.
// Bindings: 0 units, 1 x f32, 2 y f32, 3 everything behind the units. Workgroup: 128, a row block; invocations are
// 8 units, in turns, by 4 pairs of groups of columns by 4 rows of 4.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/push_constants.h"
#include "common/integers_product.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint kTokens = 1;  // 1, 2, 4 or 8
layout(constant_id = 1) const uint kShrinks = 0;
layout(constant_id = 2) const uint kScaled = 0;  // there are block scales
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };

const uint kUnitsAtATime = 8u;
const uint kColumns = kUnitsAtATime * kUnitCols;  // that are staged together
const uint kVectors = kColumns / 4u;
const uint kShrunk = kTokens * kVectors;
const uint kStaged = (kShrinks != 0u ? 2u : 1u) * kTokens * kVectors;
// Inputs times factors and, behind them, times shrinkage; after the products, sums of all invocations: at most 16 KiB.
shared vec4 staged[kStaged > 128u ? kStaged : 128u];
vec4 sum[kTokens];  // of four rows

float input_at(uint token, uint column) { return x[pc.x_at + min(token, pc.num_tokens - 1u) * pc.x_stride + column]; }

// A column whose factor is 0 adds nothing, whatever x is.
float scaled(float factor, uint token, uint column) {
  return column < pc.cols && factor != 0.0 ? factor * input_at(token, column) : 0.0;
}

void stage_inputs(uint first) {
  for (uint i = gl_LocalInvocationIndex; i < kColumns; i += 128u) {
    const uint column = first + i;
    const bool there = column < pc.cols;
    const float factor = there ? rest_number(pc.factor_at + column) : 0.0;
    const float shrink = kShrinks != 0u && there ? rest_number(pc.shrink_at + column) : 0.0;
    [[unroll]] for (uint t = 0u; t < kTokens; ++t) {
      staged[t * kVectors + (i >> 2)][i & 3u] = scaled(factor, t, column);
      if (kShrinks != 0u) staged[kShrunk + t * kVectors + (i >> 2)][i & 3u] = scaled(shrink, t, column);
    }
  }
}

// Words of four rows, with these block scales; vector: of the staged inputs of their four columns.
void add_words(uvec4 words, uint bias, vec4 scale, uint vector) {
  [[unroll]] for (uint r = 0u; r < 4u; ++r) {
    const vec4 q = word_numbers(words[r], bias);
    [[unroll]] for (uint t = 0u; t < kTokens; ++t) {
      float product = dot(q, staged[t * kVectors + vector]);
      if (kShrinks != 0u) product -= dot(sign(q), staged[kShrunk + t * kVectors + vector]);
      sum[t][r] += kScaled != 0u ? product * scale[r] : product;
    }
  }
}

void add_unit(uint at, uint entry, vec4 scale, uint pair, uint four, uint vector) {
  uvec4 even, odd;
  load_pair(at, unit_bits(entry), pair, four, even, odd);
  add_words(even, unit_bias(entry), scale, vector);
  add_words(odd, unit_bias(entry), scale, vector + 1u);
}

// Of the four rows of this invocation, every 32nd.
void add_outliers(uint block, uint four, uint turn) {
  const uint end = rest[pc.ranges_at + 2u * block + 1u];
  for (uint i = rest[pc.ranges_at + 2u * block] + turn; i < end; i += 32u) {
    const uint outlier = rest[pc.outliers_at + i];
    const uint row = outlier_row(outlier), column = outlier_column(outlier);
    if ((row >> 2) != four) continue;
    const vec4 one = vec4(equal(uvec4(row & 3u), uvec4(0u, 1u, 2u, 3u)));
    const float factor = rest_number(pc.factor_at + column) * float(outlier_rest(outlier));
    [[unroll]] for (uint t = 0u; t < kTokens; ++t) sum[t] += one * scaled(factor, t, column);
  }
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  const uint four = self & 3u, pair = (self >> 2) & 3u, turn = self >> 4;
  const uint block = gl_WorkGroupID.x;
  for (uint i = 0u; i < kTokens; ++i) sum[i] = vec4(0.0);
  [[dont_unroll]] for (uint unit0 = 0u; unit0 < pc.num_units; unit0 += kUnitsAtATime) {
    stage_inputs(unit0 * kUnitCols);
    barrier();
    const uint unit = unit0 + turn;
    if (unit < pc.num_units) {
      const uint entry = rest[pc.units_at + unit];
      const uint at = pc.weight_at + block * pc.block_wide;
      const vec4 scale = kScaled != 0u ? load_scales(at, unit, four) : vec4(1.0);
      add_unit(at + unit_wide(entry), entry, scale, pair, four, turn * 8u + 2u * pair);
    }
    barrier();
  }
  add_outliers(block, four, self >> 2);
  [[unroll]] for (uint t = 0u; t < kTokens; ++t) {
    staged[self] = sum[t];
    barrier();
    // 32 partial sums of each row: first eight invocations a row add four, then one adds the eight.
    const uint row = self >> 3, part = self & 7u;
    float some = 0.0;
    for (uint i = 0u; i < 4u; ++i) some += staged[(part * 4u + i) * 4u + (row >> 2)][row & 3u];
    barrier();
    staged[(self >> 2)][self & 3u] = some;
    barrier();
    const uint to = block * kChunk + self;
    if (self < kChunk && to < pc.rows && t < pc.num_tokens) {
      const vec4 low = staged[2u * self], high = staged[2u * self + 1u];
      const float total = dot(low + high, vec4(1.0)) * rest_number(pc.row_scale_at + to);
      const uint at = pc.y_at + t * pc.y_stride + to;
      y[at] = pc.add != 0u ? y[at] + total : total;
    }
    barrier();
  }
}
