#version 450
// Rows of the embedding, widened to f32: what ForwardCpu::embed does (runtime/engine/forward_cpu.cpp), bit for bit.
// Bindings: 0 embedding rows, 1 token ids, 2 x f32 [tokens][hidden]. Workgroup: 64, two numbers an invocation.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"
#include "common/weights.glsl"

layout(local_size_x = 64) in;
layout(constant_id = 0) const uint kDtype = kWeightF16;
layout(std430, set = 0, binding = 0) readonly buffer Embedding { uint embedding[]; };
layout(std430, set = 0, binding = 1) readonly buffer Tokens { uint tokens[]; };
layout(std430, set = 0, binding = 2) buffer X { float x[]; };
layout(push_constant) uniform Parameters { EmbedPush pc; };

void main() {
  const uint t = gl_WorkGroupID.y;
  const uint i = gl_GlobalInvocationID.x * 2u;
  if (i >= pc.hidden) return;
  const uint row = tokens[pc.token_at + t] - pc.first_row;
  if (row >= pc.num_rows) return;  // lies in another part of the embedding (below first_row it wraps around)
  vec2 value;
  if (kDtype == kWeightF32) {
    const uint at = pc.first_word + row * pc.hidden + i;
    value = uintBitsToFloat(uvec2(embedding[at], embedding[at + 1u]));
  } else {
    value = unpack_halves(kDtype, embedding[pc.first_word + (row * pc.hidden + i) / 2u]);
  }
  const uint at = t * pc.hidden + i;
  const vec2 before = pc.add != 0u ? vec2(x[at], x[at + 1u]) : vec2(0.0);
  x[at] = before.x + pc.scale * value.x;
  x[at + 1u] = before.y + pc.scale * value.y;
}
