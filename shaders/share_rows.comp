#version 450
// x[t] *= sigmoid(logits[t]): by how much a shared expert counts. Must match ExpertsCpu::share
// (runtime/engine/experts_cpu.cpp) within rounding.
// Bindings: 0 logits f32, 1 x f32 [tokens][n]. Workgroup: 64. groups: n / 64, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Logits { float logits[]; };
layout(std430, set = 0, binding = 1) buffer X { float x[]; };
layout(push_constant) uniform Parameters { SharePush pc; };

void main() {
  const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  // Some drivers' exponentials overflow where the sigmoid is nothing anyway.
  x[t * pc.n + i] /= 1.0 + exp(min(-logits[pc.logit_at + t * pc.logit_stride], 80.0));
}
