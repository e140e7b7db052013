#version 450
// f32 to f16 or bf16, two to a word.
// Bindings: 2 f32 (as bits), 3 halves. Workgroup: 64, one output word an invocation.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 2) readonly buffer Source { uint source[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Halves { uint halves[]; };
layout(push_constant) uniform Parameters { ConvertPush pc; };

#include "common/half.glsl"

uint convert(uint index) {
  if (index >= pc.count) return 0u;
  const uint bits = source[index];
  return pc.bf16 != 0 ? to_bf16(bits) : to_f16(bits);
}

void main() {
  const uint word = gl_GlobalInvocationID.x;
  if (word * 2u >= pc.count) return;
  halves[word] = convert(2u * word) | (convert(2u * word + 1u) << 16);
}
