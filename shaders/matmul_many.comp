#version 450
// y[t][r] = sum_j x[t][j] W[r][j] in tiles of 32 tokens by 64 rows; must match matmul (runtime/engine/kernels_cpu.h)
// within rounding.
// Bindings: 0 W rows, 1 x f32, 2 y f32. Workgroup: 128, 4 tokens by 4 rows an invocation. groups: rows / 64, tokens / 32.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"
#include "common/weights.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint kDtype = kWeightF16;
layout(std430, set = 0, binding = 0) readonly buffer Weights { uint weights[]; };
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };
layout(push_constant) uniform Parameters { MatmulPush pc; };

const uint kTileTokens = 32u, kTileRows = 64u, kDepth = 16u;
shared float x_tile[kDepth * (kTileTokens + 1u)];  // [depth][token]; a column of padding against bank conflicts
shared float w_tile[kDepth * (kTileRows + 1u)];    // [depth][row]

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint row0 = gl_WorkGroupID.x * kTileRows, token0 = gl_WorkGroupID.y * kTileTokens;
  const uint words_per_row = kDtype == kWeightF32 ? pc.cols : pc.cols / 2u;
  const uint own_row = (i0 % 16u) * 4u, own_token = (i0 / 16u) * 4u;
  float sum[16];
  for (uint i = 0; i < 16u; ++i) sum[i] = 0.0;
  for (uint depth = 0; depth < pc.cols; depth += kDepth) {
    // Pairs of columns: 8 to a row or token of the tile.
    for (uint i = i0; i < kTileRows * kDepth / 2u; i += 128u) {
      const uint r = i / (kDepth / 2u), j = 2u * (i % (kDepth / 2u));
      const uint at = pc.weight_at + min(row0 + r, pc.rows - 1u) * words_per_row;
      vec2 w = vec2(0.0);
      if (depth + j < pc.cols) {
        if (kDtype == kWeightF32) {
          w = uintBitsToFloat(uvec2(weights[at + depth + j], weights[at + depth + j + 1u]));
        } else {
          w = unpack_halves(kDtype, weights[at + (depth + j) / 2u]);
        }
      }
      w_tile[j * (kTileRows + 1u) + r] = w.x;
      w_tile[(j + 1u) * (kTileRows + 1u) + r] = w.y;
    }
    for (uint i = i0; i < kTileTokens * kDepth; i += 128u) {
      const uint t = i / kDepth, j = i % kDepth;
      const uint at = pc.x_at + min(token0 + t, pc.num_tokens - 1u) * pc.x_stride;
      x_tile[j * (kTileTokens + 1u) + t] = depth + j < pc.cols ? x[at + depth + j] : 0.0;
    }
    barrier();
    for (uint j = 0; j < kDepth; ++j) {
      float w[4], v[4];
      for (uint i = 0; i < 4u; ++i) w[i] = w_tile[j * (kTileRows + 1u) + own_row + i];
      for (uint i = 0; i < 4u; ++i) v[i] = x_tile[j * (kTileTokens + 1u) + own_token + i];
      for (uint t = 0; t < 4u; ++t) {
        for (uint r = 0; r < 4u; ++r) sum[t * 4u + r] += v[t] * w[r];
      }
    }
    barrier();
  }
  for (uint t = 0; t < 4u; ++t) {
    for (uint r = 0; r < 4u; ++r) {
      const uint token = token0 + own_token + t, row = row0 + own_row + r;
      if (token >= pc.num_tokens || row >= pc.rows) continue;
      const uint at = pc.y_at + token * pc.y_stride + row;
      y[at] = pc.add != 0 ? y[at] + sum[t * 4u + r] : sum[t * 4u + r];
    }
  }
}
