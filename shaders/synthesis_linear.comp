#version 450
// y = S z for one chunk per invocation; must match synthesize_chunks (runtime/codec/synthesis.h) with w = 0 within the
// tolerance of doc/format.md, section 5.5.
// Bindings: 0 network ((step, shrink)[K], S[16][16]), 1 window input, 2 values, 3 weights f32 [rows][width].
// Workgroup: 64.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"
#include "common/synthesis.glsl"

layout(local_size_x = 64) in;

shared float matrix[kChunk * kChunk];

void main() {
  for (uint i = gl_LocalInvocationIndex; i < kChunk * kChunk; i += gl_WorkGroupSize.x) {
    matrix[i] = network[pc.matrices_at + i];
  }
  barrier();
  const uint chunk = gl_GlobalInvocationID.x;
  if (chunk >= pc.num_chunks) return;
  const uint block = chunk / pc.width;
  const uint column = chunk % pc.width;
  const uint level = column_level(column);
  const float scale = uintBitsToFloat(window_data[pc.scale_at + column]);
  float z[kChunk];
  for (uint i = 0; i < kChunk; ++i) z[i] = dequantize(block, column, level, i);
  for (uint i = 0; i < kChunk; ++i) {
    float y = 0.0;
    for (uint j = 0; j < kChunk; ++j) y += matrix[i * kChunk + j] * z[j];
    store_weight(block, column, i, y, scale);
  }
}
