#version 450
// out = x / sqrt(mean(x^2) + eps) * gain of one token per workgroup; must match rms_norm (runtime/engine/kernels_cpu.h)
// within rounding.
// Bindings: 0 x f32 [tokens][n], 1 gains f32, 2 out f32 [tokens][n]. Workgroup: 128.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 128) in;
layout(std430, set = 0, binding = 0) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 1) readonly buffer Gains { float gains[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Out { float normed[]; };
layout(push_constant) uniform Parameters { NormPush pc; };

shared float sums[128];

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint at = gl_WorkGroupID.x * pc.n;
  float sum = 0.0;
  for (uint i = i0; i < pc.n; i += 128u) sum += x[at + i] * x[at + i];
  sums[i0] = sum;
  for (uint half_size = 64u; half_size != 0u; half_size /= 2u) {
    barrier();
    if (i0 < half_size) sums[i0] += sums[i0 + half_size];
  }
  barrier();
  const float factor = 1.0 / sqrt(sums[0] / float(pc.n) + pc.eps);
  for (uint i = i0; i < pc.n; i += 128u) normed[at + i] = x[at + i] * factor * gains[pc.gain_at + i];
}
