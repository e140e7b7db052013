#version 450
// out[t] = (add: +=) the sum of a token's rows of x, times their weights, in the order in which they stand in the token's
// list: what experts give to a token. Must match ExpertsCpu::compute (runtime/engine/experts_cpu.cpp) within rounding.
// Bindings: 0 x f32 [rows][n], 1 choices: numbers of rows u32 [tokens][per_token], and their weights f32, likewise, 2 out
// f32 [tokens][n]. Workgroup: 64. groups: n / 64, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer In { float x[]; };
layout(std430, set = 0, binding = 1) readonly buffer Choices { uint choices[]; };
layout(std430, set = 0, binding = 2) buffer Out { float y[]; };
layout(push_constant) uniform Parameters { CombinePush pc; };

void main() {
  const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  const uint at = t * pc.n + i;
  float sum = pc.add != 0u ? y[at] : 0.0;
  for (uint j = t * pc.per_token; j < (t + 1u) * pc.per_token; ++j) {
    sum += uintBitsToFloat(choices[pc.weights_at + j]) * x[choices[pc.rows_at + j] * pc.n + i];
  }
  y[at] = sum;
}
