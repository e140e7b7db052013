#version 450
// The same as integers_few.comp with dot products of bytes (common/integers_dot.glsl), for up to 4 tokens: inputs lose
// what they lose on the CPU, and results are the CPU's but for the order in which blocks of columns are added up. Outliers
// take inputs as they are.
// Workgroup: 128, a row block and a few tokens; groups: tokens, rows. First an invocation is a unit of columns by four
// rows, then a row by every eighth block of columns.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/push_constants.h"
#include "common/integers_product.glsl"
#include "common/integers_dot.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint kTokens = 1;  // of a workgroup: 1, 2 or 4; with shrinkage at most 2
layout(constant_id = 1) const uint kShrinks = 0;
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };

// Inputs times factors of each token and, behind them, times shrinkage.
const uint kInputs = (kShrinks != 0u ? 2u : 1u) * kTokens;
const uint kUnitsAtATime = 32u;
const uint kBlocks = kUnitsAtATime / kUnitsPerBlock;
const uint kUnitVectors = kUnitCols / 4u;
const uint kPaddedUnit = kUnitVectors + 1u;  // against bank conflicts
shared uvec2 digits[kInputs * kUnitsAtATime * kPaddedUnit];
shared uint most[kInputs * kBlocks];
shared float scales[kInputs * kBlocks];
shared ivec4 sums[kInputs * kUnitsAtATime * 4u];  // [input][unit][four rows]
shared float totals[kTokens * 128u];              // [token][every eighth block][row]

uint token_at(uint t) { return min(gl_WorkGroupID.x * kTokens + t, pc.num_tokens - 1u); }

// A column whose factor is 0 adds nothing, whatever x is.
float scaled(uint factor_at, uint t, uint column) {
  if (column >= pc.cols) return 0.0;
  const float factor = rest_number(factor_at + column);
  return factor != 0.0 ? factor * x[pc.x_at + token_at(t) * pc.x_stride + column] : 0.0;
}
vec4 scaled_vector(uint i, uint column) {
  const uint factor_at = i < kTokens ? pc.factor_at : pc.shrink_at, t = i < kTokens ? i : i - kTokens;
  return vec4(scaled(factor_at, t, column), scaled(factor_at, t, column + 1u), scaled(factor_at, t, column + 2u),
              scaled(factor_at, t, column + 3u));
}

// The inputs of units `unit0` and after. `most` is 0 before.
void stage_inputs(uint unit0) {
  const uint self = gl_LocalInvocationIndex;
  vec4 v[2u * kInputs];
  [[unroll]] for (uint i = 0u; i < kInputs; ++i) {
    [[unroll]] for (uint k = 0u; k < 2u; ++k) {
      const uint vector = self + k * 128u;
      v[2u * i + k] = scaled_vector(i, unit0 * kUnitCols + 4u * vector);
      atomicMax(most[i * kBlocks + vector / kVectorsPerBlock], largest_bits(v[2u * i + k]));
    }
  }
  barrier();
  [[unroll]] for (uint i = 0u; i < kInputs; ++i) {
    [[unroll]] for (uint k = 0u; k < 2u; ++k) {
      const uint vector = self + k * 128u;
      const uint of_block = most[i * kBlocks + vector / kVectorsPerBlock];
      const uint unit = i * kUnitsAtATime + vector / kUnitVectors;
      digits[unit * kPaddedUnit + vector % kUnitVectors] = to_digits(v[2u * i + k], of_block);
    }
  }
  if (self < kInputs * kBlocks) scales[self] = input_scale(most[self]);
  barrier();
}

// Sums over the columns of unit `own` of those that are staged.
void add_unit(uint unit, uint own, uint four) {
  DigitSums sum[kInputs];
  for (uint i = 0u; i < kInputs; ++i) sum[i] = DigitSums(ivec4(0), ivec4(0));
  if (unit < pc.num_units) {
    const uint entry = rest[pc.units_at + unit];
    const uint bits = unit_bits(entry), bias = unit_bias(entry);
    const uint at = pc.weight_at + gl_WorkGroupID.y * pc.block_wide + unit_wide(entry);
    for (uint pair = 0u; pair < kUnitVectors / 2u; ++pair) {
      uvec4 words[2];
      load_pair(at, bits, pair, four, words[0], words[1]);
      [[unroll]] for (uint k = 0u; k < 2u; ++k) {
        const uvec4 weights = signed_words(words[k], bits, bias);
        const uvec4 signs = kShrinks != 0u ? sign_words(weights) : uvec4(0u);
        [[unroll]] for (uint i = 0u; i < kInputs; ++i) {
          const uvec2 input_digits = digits[(i * kUnitsAtATime + own) * kPaddedUnit + 2u * pair + k];
          add_dots(sum[i], i < kTokens ? weights : signs, input_digits);
        }
      }
    }
  }
  [[unroll]] for (uint i = 0u; i < kInputs; ++i) sums[(i * kUnitsAtATime + own) * 4u + four] = join_digits(sum[i]);
}

float block_product(uint i, uint block, uint row) {
  int sum = 0;
  [[unroll]] for (uint u = 0u; u < kUnitsPerBlock; ++u)
    sum += sums[(i * kUnitsAtATime + block * kUnitsPerBlock + u) * 4u + (row >> 2)][row & 3u];
  return float(sum) * scales[i * kBlocks + block];
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  const uint block = gl_WorkGroupID.y;
  const uint row = self & 15u, turn = self >> 4;
  float total[kTokens];
  for (uint t = 0u; t < kTokens; ++t) total[t] = 0.0;
  if (self < kInputs * kBlocks) most[self] = 0u;
  barrier();
  [[dont_unroll]] for (uint unit0 = 0u; unit0 < pc.num_units; unit0 += kUnitsAtATime) {
    stage_inputs(unit0);
    add_unit(unit0 + (self >> 2), self >> 2, self & 3u);
    if (self < kInputs * kBlocks) most[self] = 0u;
    barrier();
    [[unroll]] for (uint t = 0u; t < kTokens; ++t) {
      total[t] += block_product(t, turn, row);
      if (kShrinks != 0u) total[t] -= block_product(kTokens + t, turn, row);
    }
  }
  const uint end = rest[pc.ranges_at + 2u * block + 1u];
  for (uint i = rest[pc.ranges_at + 2u * block] + turn; i < end; i += kBlocks) {
    const uint outlier = rest[pc.outliers_at + i];
    if (outlier_row(outlier) != row) continue;
    const float more = float(outlier_rest(outlier));
    [[unroll]] for (uint t = 0u; t < kTokens; ++t) total[t] += more * scaled(pc.factor_at, t, outlier_column(outlier));
  }
  [[unroll]] for (uint t = 0u; t < kTokens; ++t) totals[t * 128u + self] = total[t];
  barrier();
  const uint t = self >> 4, token = gl_WorkGroupID.x * kTokens + t;
  const uint to = block * kChunk + row;
  if (t >= kTokens || token >= pc.num_tokens || to >= pc.rows) return;
  float sum = 0.0;
  for (uint i = 0u; i < kBlocks; ++i) sum += totals[t * 128u + i * kChunk + row];
  sum *= rest_number(pc.row_scale_at + to);
  const uint at = pc.y_at + token * pc.y_stride + to;
  y[at] = pc.add != 0u ? y[at] + sum : sum;
}
