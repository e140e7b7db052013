#version 450
// out = activation(gate) * up, where gate and up may be bounded and up have 1 added to it before, or activation(x); must
// match activate (runtime/engine/kernels_cpu.h) within rounding.
// Bindings: 0 in f32 [tokens][2 n] or [tokens][n], 1 out f32 [tokens][n]. Workgroup: 64. groups: n / 64, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(constant_id = 0) const uint kActivation = 0;  // the numbers of MlpActivation (runtime/format/block_spec.h)
layout(constant_id = 1) const uint kGated = 1;
layout(std430, set = 0, binding = 0) readonly buffer In { float inner[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Out { float activated[]; };
layout(push_constant) uniform Parameters { ActivatePush pc; };

// erf by Abramowitz and Stegun, formula 7.1.26: off by at most 1.5e-7.
float error_function(float v) {
  const float a = abs(v), t = 1.0 / (1.0 + 0.3275911 * a);
  const float p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sign(v) * (1.0 - p * exp(-a * a));
}

float sigmoid_gate(float v, float a, float b) { return v / (1.0 + exp(-v * (a + b * min(v * v, 1.0e30)))); }

float activate(float v) {
  switch (kActivation) {
    case 0: return sigmoid_gate(v, 1.0, 0.0);
    case 1: return 0.5 * v * (1.0 + error_function(v * 0.70710678));
    case 2: return sigmoid_gate(v, 1.5957691216, 1.5957691216 * 0.044715);
    case 3: return max(v, 0.0);
    case 4: return v > 0.0 ? v * v : 0.0;
    default: return sigmoid_gate(v, 1.702, 0.0);
  }
}

void main() {
  const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
  if (i >= pc.n) return;
  if (kGated != 0) {
    const uint at = pc.x_at + 2u * t * pc.n + i;
    float gate = inner[at], up = inner[at + pc.n];
    if (pc.bound != 0.0) {
      gate = min(gate, pc.bound);
      up = clamp(up, -pc.bound, pc.bound);
    }
    activated[pc.out_at + t * pc.n + i] = activate(gate) * (up + pc.up_plus);
  } else {
    activated[pc.out_at + t * pc.n + i] = activate(inner[pc.x_at + t * pc.n + i]);
  }
}
