#version 450
// out = silu(gate) * up; must match swiglu (runtime/engine/kernels_cpu.h) within rounding.
// Bindings: 0 gate_up f32 [tokens][2 n], 1 out f32 [tokens][n]. Workgroup: 64. groups: n / 64, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer GateUp { float gate_up[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Out { float activated[]; };
layout(push_constant) uniform Parameters { SwigluPush pc; };

void main() {
  const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  const float gate = gate_up[2u * t * pc.n + i];
  activated[t * pc.n + i] = gate / (1.0 + exp(-gate)) * gate_up[2u * t * pc.n + pc.n + i];
}
