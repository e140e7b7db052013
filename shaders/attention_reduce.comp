#version 450
// The end of attention that was split over positions: the pieces of one head of one token become one.
// Bindings: 0 partial results of attention.comp: sums f32 [row][piece][head_dim], then of each the largest score and
// the sum of the exponentials; a row is a token's head. 1 out f32 [row][head_dim], 2 vectors f32. Workgroup: 64.
// groups: heads, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Partials { vec2 partials[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Out { vec2 attended[]; };
layout(std430, set = 0, binding = 2) readonly buffer Vectors { float vectors[]; };
layout(push_constant) uniform Parameters { AttentionReducePush pc; };

const uint kMaxPairs = 2u;  // of an invocation: 2 * 64 pairs are 256 numbers
shared float largest[64];
shared float weight[64];
shared float weighted_total[64];

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint row = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const uint pairs = pc.head_dim / 2u;
  const uint statistics = pc.statistics_at + row * pc.pieces, sums = row * pc.pieces * pairs;

  float most = -3.402823e38;
  for (uint p = i0; p < pc.pieces; p += 64u) most = max(most, partials[statistics + p].x);
  largest[i0] = most;
  for (uint half_size = 32u; half_size != 0u; half_size /= 2u) {
    barrier();
    if (i0 < half_size) largest[i0] = max(largest[i0], largest[i0 + half_size]);
  }
  barrier();
  most = largest[0];

  vec2 sum[kMaxPairs];
  for (uint k = 0; k < kMaxPairs; ++k) sum[k] = vec2(0.0);
  float total = 0.0;
  for (uint first = 0; first < pc.pieces; first += 64u) {
    const uint count = min(64u, pc.pieces - first);
    if (i0 < count) {
      const vec2 of_piece = partials[statistics + first + i0];
      weight[i0] = exp(of_piece.x - most);  // 0 for a piece of which the token sees nothing
      weighted_total[i0] = weight[i0] * of_piece.y;
    }
    barrier();
    for (uint p = 0; p < count; ++p) {
      total += weighted_total[p];
      for (uint k = 0; k < kMaxPairs; ++k) {
        const uint pair = i0 + k * 64u;
        if (pair < pairs) sum[k] = fma(vec2(weight[p]), partials[sums + (first + p) * pairs + pair], sum[k]);
      }
    }
    barrier();
  }
  // As in attention.comp.
  if (pc.sinks_at != kNoVectorAt) total += exp(min(vectors[pc.sinks_at + gl_WorkGroupID.x] - most, 80.0));
  for (uint k = 0; k < kMaxPairs; ++k) {
    const uint pair = i0 + k * 64u;
    if (pair < pairs) attended[row * pairs + pair] = sum[k] / total;
  }
}
