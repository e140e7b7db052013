#version 450
// out[i] = (add: +=) in[indices[i]], row by row: the inputs of experts, and their biases. Must match what
// ExpertsCpu::compute (runtime/engine/experts_cpu.cpp) copies and adds, bit for bit.
// Bindings: 0 in f32, 1 indices u32, 2 out f32. Workgroup: 64. groups: n / 64, rows.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer In { float x[]; };
layout(std430, set = 0, binding = 1) readonly buffer Indices { uint indices[]; };
layout(std430, set = 0, binding = 2) buffer Out { float y[]; };
layout(push_constant) uniform Parameters { GatherPush pc; };

void main() {
  const uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  const float v = x[pc.x_at + indices[pc.index_at + row] * pc.n + i];
  const uint at = pc.y_at + row * pc.n + i;
  y[at] = pc.add != 0u ? y[at] + v : v;
}
