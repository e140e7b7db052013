#version 450
// The end of a product with a coded matrix: partial results of its column bands are added up in order, and scaled by row.
// Bindings: 0 partial results f32 [band][vector][row], 1 window input (row scales), 2 y f32 [vector][row].
// Workgroup: 64, one row an invocation; the groups' second dimension is the vector.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };
layout(std430, set = 0, binding = 1) readonly buffer Window { uint window_data[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };
layout(push_constant) uniform Parameters { ReducePush pc; };

void main() {
  const uint row = gl_GlobalInvocationID.x;
  const uint v = gl_WorkGroupID.y;
  if (row >= pc.num_rows) return;
  float sum = 0.0;
  for (uint band = 0; band < pc.num_bands; ++band) {
    sum += partials[(band * pc.num_vectors + v) * pc.num_rows + row];
  }
  if (pc.row_scale_at != kNoRowScale) sum *= uintBitsToFloat(window_data[pc.row_scale_at + row]);
  const uint at = pc.y_at + v * pc.y_stride + row;
  y[at] = pc.accumulate != 0 ? y[at] + sum : sum;
}
