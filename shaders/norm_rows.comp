#version 450
// out = norm(x) of one row per workgroup: RMSNorm, or layer norm with a bias; must match norm_rows
// (runtime/engine/kernels_cpu.h) within rounding. Out may be x.
// Bindings: 0 x f32, 1 gains and biases f32, 2 out f32. Workgroup: 128. groups: x rows of a token, y tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 128) in;
layout(std430, set = 0, binding = 0) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 1) readonly buffer Vectors { float vectors[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Out { float normed[]; };
layout(push_constant) uniform Parameters { NormPush pc; };

shared float sums[128];

// The sum of `own` over the workgroup.
float add_up(uint i0, float own) {
  barrier();
  sums[i0] = own;
  for (uint half_size = 64u; half_size != 0u; half_size /= 2u) {
    barrier();
    if (i0 < half_size) sums[i0] += sums[i0 + half_size];
  }
  barrier();
  return sums[0];
}

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint row = gl_WorkGroupID.x * pc.n;
  const uint at = pc.x_at + gl_WorkGroupID.y * pc.x_stride + row;
  const uint out_at = pc.out_at + gl_WorkGroupID.y * pc.out_stride + row;
  float mean = 0.0;
  if (pc.layer_norm != 0u) {
    float sum = 0.0;
    for (uint i = i0; i < pc.n; i += 128u) sum += x[at + i];
    mean = add_up(i0, sum) / float(pc.n);
  }
  float squares = 0.0;
  for (uint i = i0; i < pc.n; i += 128u) squares += (x[at + i] - mean) * (x[at + i] - mean);
  const float factor = 1.0 / sqrt(add_up(i0, squares) / float(pc.n) + pc.eps);
  for (uint i = i0; i < pc.n; i += 128u) {
    const float bias = pc.bias_at != kNoVectorAt ? vectors[pc.bias_at + i] : 0.0;
    normed[out_at + i] = (x[at + i] - mean) * factor * vectors[pc.gain_at + i] + bias;
  }
}
