#version 450
// y[t][r] = sum_j x[t][j] W[r][j] for many tokens, W in floating point: common/matmul_tile.glsl. Must match matmul
// (runtime/engine/kernels_cpu.h) within rounding.
// Binding 0: W rows.
#extension GL_GOOGLE_include_directive : require
#include "common/push_constants.h"
#include "common/weights.glsl"

layout(constant_id = 0) const uint kDtype = kWeightF16;
layout(std430, set = 0, binding = 0) readonly buffer Weights { uint weights[]; };
layout(push_constant) uniform Parameters { MatmulPush pc; };

const uint kDepth = 16u;
#include "common/matmul_tile.glsl"

void load_weights(uint row0, uint depth) {
  const uint words_per_row = kDtype == kWeightF32 ? pc.cols : pc.cols / 2u;
  // Pairs of columns: 8 to a row of the tile.
  for (uint i = gl_LocalInvocationIndex; i < kTileRows * kDepth / 2u; i += 128u) {
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
}

void finish(uint row, uint token) {}

void main() { multiply_tile(); }
