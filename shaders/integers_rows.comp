#version 450
// Rows of an embedding whose weights are units of integers: must match integer_row (runtime/codec/integer_decode.h) within
// rounding.
// Bindings: 0 units, 1 token ids, 2 x f32 [tokens][cols], 3 everything behind the units. Workgroup: 64, four numbers an
// invocation.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"
#include "common/integers.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(constant_id = 0) const uint kShrinks = 0;
layout(constant_id = 1) const uint kScaled = 0;  // there are block scales
layout(std430, set = 0, binding = 0) readonly buffer Units { uint units[]; };
layout(std430, set = 0, binding = 1) readonly buffer Tokens { uint tokens[]; };
layout(std430, set = 0, binding = 2) buffer X { float x[]; };
layout(std430, set = 0, binding = 3) readonly buffer Rest { uint rest[]; };
layout(push_constant) uniform Parameters { IntegerRowsPush pc; };

float rest_number(uint at) { return uintBitsToFloat(rest[at]); }

// Columns 4 group .. 4 group + 3 of a unit's row.
uint unit_word(uint at, uint bits, uint group, uint row) {
  if (bits == 8u) return units[at + kChunk * group + row];
  const uint low = units[at + kChunk * (group >> 1) + row];
  const uint high = bits == 4u ? 0u : units[at + kChunk * upper_block(bits, group) + row];
  return join_words(bits, group, uvec4(low), uvec4(high)).x;
}

void main() {
  const uint t = gl_WorkGroupID.y;
  const uint column = gl_GlobalInvocationID.x * 4u;
  if (column >= pc.cols) return;
  const uint row = tokens[pc.token_at + t] - pc.first_row;
  if (row >= pc.num_rows) return;  // lies in another part of the embedding (below first_row it wraps around)
  const uint block = row / kChunk, own = row % kChunk;
  const uint entry = rest[pc.units_at + column / kUnitCols];
  const uint at = pc.weight_at + block * pc.block_words + unit_words(entry);
  const vec4 q = word_numbers(unit_word(at, unit_bits(entry), column % kUnitCols / 4u, own), unit_bias(entry));
  vec4 w;
  for (uint c = 0u; c < 4u; ++c) {
    w[c] = q[c] * rest_number(pc.factor_at + column + c);
    if (kShrinks != 0u) w[c] -= sign(q[c]) * rest_number(pc.shrink_at + column + c);
  }
  const uint end = rest[pc.ranges_at + 2u * block + 1u];
  for (uint i = rest[pc.ranges_at + 2u * block]; i < end; ++i) {
    const uint outlier = rest[pc.outliers_at + i];
    const uint c = outlier_column(outlier) - column;
    if (c >= 4u || outlier_row(outlier) != own) continue;
    const float more = rest_number(pc.factor_at + column + c) * float(outlier_rest(outlier));
    w += vec4(equal(uvec4(c), uvec4(0u, 1u, 2u, 3u))) * more;
  }
  if (kScaled != 0u) {
    const uint scales_at = pc.weight_at + block * pc.block_words + (pc.cols + kUnitCols - 1u) / kUnitCols * 128u;
    const uint two = units[scales_at + (column / kUnitCols * kChunk + own) / 2u];
    w *= uintBitsToFloat((own & 1u) == 0u ? two << 16 : two & 0xffff0000u);
  }
  w *= pc.scale * rest_number(pc.row_scale_at + row);
  for (uint c = 0u; c < 4u && column + c < pc.cols; ++c) {
    const uint to = t * pc.cols + column + c;
    x[to] = pc.add != 0u ? x[to] + w[c] : w[c];
  }
}
