#version 450
// x += scale * y, or x *= y, row by row; y may be one row for all (a bias). Must match add_rows, add_bias and scale_rows
// (runtime/engine/kernels_cpu.h) within rounding.
// Bindings: 0 x f32, 1 y f32. Workgroup: 64. groups: n / 64, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) buffer X { float x[]; };
layout(std430, set = 0, binding = 1) readonly buffer Y { float y[]; };
layout(push_constant) uniform Parameters { AddPush pc; };

void main() {
  const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  const uint at = t * pc.x_stride + i;
  const float other = y[pc.y_at + t * pc.y_stride + i];
  x[at] = pc.multiply != 0u ? x[at] * other : x[at] + pc.scale * other;
}
