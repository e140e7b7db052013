#version 450
// y[t][r] = sum_j x[t][j] W[r][j] for up to 8 tokens: memory-bound, so that a workgroup takes a few rows and every weight
// is read once; must match matmul (runtime/engine/kernels_cpu.h) within rounding.
// Bindings: 0 W rows, 1 x f32, 2 y f32. Workgroup: 128. groups: rows / kRows.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"
#include "common/weights.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint kDtype = kWeightF16;
layout(constant_id = 1) const uint kTokens = 1;  // 1, 2, 4 or 8
layout(constant_id = 2) const uint kRows = 4;    // kRows * kTokens divides 128
layout(constant_id = 3) const uint kWide = 1;    // rows start and end at multiples of 16 bytes
layout(std430, set = 0, binding = 0) readonly buffer Weights { uint weights[]; };
layout(std430, set = 0, binding = 0) readonly buffer WideWeights { uvec4 wide_weights[]; };
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };
layout(push_constant) uniform Parameters { MatmulPush pc; };

const uint kOutputs = kRows * kTokens;
shared float partial[kOutputs * 128];
float sum[kOutputs];

// Adds the products of `count` (2 or 4) columns from `column` whose weights are w.
void add_products(uint r, uint column, vec2 w) {
  for (uint t = 0; t < kTokens; ++t) {
    const uint at = pc.x_at + min(t, pc.num_tokens - 1u) * pc.x_stride + column;
    sum[r * kTokens + t] += w.x * x[at] + w.y * x[at + 1u];
  }
}

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint row0 = gl_WorkGroupID.x * kRows;
  for (uint i = 0; i < kOutputs; ++i) sum[i] = 0.0;
  const uint words_per_row = kDtype == kWeightF32 ? pc.cols : pc.cols / 2u;
  const uint columns_per_word = kDtype == kWeightF32 ? 1u : 2u;
  if (kWide != 0) {
    for (uint i = i0; i < words_per_row / 4u; i += 128u) {
      for (uint r = 0; r < kRows; ++r) {
        const uint row = min(row0 + r, pc.rows - 1u);
        const uvec4 w = wide_weights[(pc.weight_at + row * words_per_row) / 4u + i];
        const uint column = i * 4u * columns_per_word;
        if (kDtype == kWeightF32) {
          add_products(r, column, uintBitsToFloat(w.xy));
          add_products(r, column + 2u, uintBitsToFloat(w.zw));
        } else {
          add_products(r, column, unpack_halves(kDtype, w.x));
          add_products(r, column + 2u, unpack_halves(kDtype, w.y));
          add_products(r, column + 4u, unpack_halves(kDtype, w.z));
          add_products(r, column + 6u, unpack_halves(kDtype, w.w));
        }
      }
    }
  } else {
    for (uint i = i0; i < pc.cols / 2u; i += 128u) {
      for (uint r = 0; r < kRows; ++r) {
        const uint at = pc.weight_at + min(row0 + r, pc.rows - 1u) * words_per_row;
        if (kDtype == kWeightF32) {
          add_products(r, 2u * i, uintBitsToFloat(uvec2(weights[at + 2u * i], weights[at + 2u * i + 1u])));
        } else {
          add_products(r, 2u * i, unpack_halves(kDtype, weights[at + i]));
        }
      }
    }
  }

  // 128 partial sums of each output: first every invocation adds kOutputs of them, then one adds the rest.
  for (uint i = 0; i < kOutputs; ++i) partial[i * 128u + i0] = sum[i];
  barrier();
  const uint output_index = i0 / (128u / kOutputs);
  float first = 0.0;
  for (uint i = 0; i < kOutputs; ++i) first += partial[output_index * 128u + i0 % (128u / kOutputs) + i * (128u / kOutputs)];
  barrier();
  partial[i0] = first;
  barrier();
  const uint r = i0 / kTokens;
  const uint t = i0 % kTokens;
  if (i0 >= kOutputs || row0 + r >= pc.rows || t >= pc.num_tokens) return;
  float total = 0.0;
  for (uint i = 0; i < 128u / kOutputs; ++i) total += partial[i0 * (128u / kOutputs) + i];
  const uint at = pc.y_at + t * pc.y_stride + row0 + r;
  y[at] = pc.add != 0 ? y[at] + total : total;
}
