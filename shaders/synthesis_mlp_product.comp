#version 450
// Products of up to kMaxVectors vectors with the weights that a slice's values stand for, from values through the synthesis network
// (common/synthesis.glsl). The last layer commutes with the sum over columns (doc/architecture.md, "Fused product"): a
// workgroup takes kChunks neighbouring columns of one row block, sums their features, and applies the layer to the sums; no
// weight is ever made.
// Bindings: 2 x f32 [vector][width], then the tiles' status words, then values; 3 partial results f32
// [column group][num_vectors][num_rows]. groups: column groups x row blocks.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"
#include "common/push_constants.h"

layout(constant_id = 9) const uint kPass = 1;  // vectors at a time: their sums are in shared memory
layout(push_constant) uniform Parameters { NetworkPush pc; };
#include "common/synthesis.glsl"

layout(std430, set = 0, binding = 2) readonly buffer Vectors { float x[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };

// Features of a chunk, four to a row: h, z, and 1, whose factor in the last layer is output_bias.
const uint kFeatureRows = kWidth / 4u + kChunk / 4u + 1u;
// Invocations that share an output of the last layer; the workgroup has 72 at least.
const uint kParts = kOutputThreads * kChunkThreads / kChunk;

shared float factors[kMaxVectors * kChunks];  // x times scale; 0 beyond the last column
shared vec4 sums[kPass * kFeatureRows];       // of a pass's vectors
shared float parts[kPass * kParts * kChunk];

uint slice_block() { return pc.first_block + gl_WorkGroupID.y; }
uint chunk_column(uint c) { return gl_WorkGroupID.x * kChunks + c; }
bool has_chunk(uint c) { return chunk_column(c) < pc.width; }
uint chunk_values(uint c) { return pc.values_at + (slice_block() * pc.width + chunk_column(c)) * (kChunk / 2u); }

// A tile that does not decode shows in every number.
float factor(uint v, uint c) {
  if (!has_chunk(c)) return 0.0;
  const uint column = chunk_column(c);
  const uint tiles_per_row = (pc.width + pc.tile_cols - 1u) / pc.tile_cols;
  const uint tile = slice_block() / pc.tile_blocks * tiles_per_row + column / pc.tile_cols;
  if (values[pc.status_at + tile] != kTileOk) return uintBitsToFloat(0x7fc00000u);
  const float scale = uintBitsToFloat(window_data[pc.scale_at + column]);
  return scale != 0.0 ? x[v * pc.width + column] * scale : 0.0;
}

vec4 feature_row(uint c, uint r) {
  if (r < kWidth / 4u) return h[c * kStride + r];
  if (r < kFeatureRows - 1u) return h[kScratch + c * (kChunk / 4u) + r - kWidth / 4u];
  return vec4(1.0, 0.0, 0.0, 0.0);
}

// The factors of a row of features in output `channel`. `at`: where output_weight begins in the
// network.
vec4 last_layer(uint at, uint channel, uint r) {
  const uint bias_at = at + kChunk * kWidth;
  if (r < kWidth / 4u) return network_row(at + channel * kWidth + 4u * r);
  if (r < kFeatureRows - 1u) return network_row(bias_at + kChunk + channel * kChunk + 4u * r - kWidth);
  return vec4(network[bias_at + channel], 0.0, 0.0, 0.0);
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  [[dont_unroll]] for (uint i = self; i < pc.num_vectors * kChunks; i += gl_WorkGroupSize.x) {
    factors[i] = factor(i / kChunks, i % kChunks);
  }
  const uint at = run_blocks();
  [[dont_unroll]] for (uint first = 0; first < pc.num_vectors; first += kPass) {
    const uint vectors = min(kPass, pc.num_vectors - first);
    [[dont_unroll]] for (uint i = self; i < vectors * kFeatureRows; i += gl_WorkGroupSize.x) {
      const uint factor_at = (first + i / kFeatureRows) * kChunks;
      vec4 sum = vec4(0.0);
      [[dont_unroll]] for (uint c = 0; c < kChunks; ++c) {
        // A factor of 0 must add nothing, even where h is beyond the range of f32.
        const float f = factors[factor_at + c];
        if (f != 0.0) sum += f * feature_row(c, i % kFeatureRows);
      }
      sums[i] = sum;
    }
    barrier();
    // [vector][channel][part]: neighbours take neighbouring rows.
    [[dont_unroll]] for (uint i = self; i < vectors * kChunk * kParts; i += gl_WorkGroupSize.x) {
      const uint output_of = i / kParts;
      const uint sums_at = output_of / kChunk * kFeatureRows;
      float sum = 0.0;
      [[dont_unroll]] for (uint r = i % kParts; r < kFeatureRows; r += kParts) {
        sum += dot(last_layer(at, output_of % kChunk, r), sums[sums_at + r]);
      }
      parts[i] = sum;
    }
    barrier();
    [[dont_unroll]] for (uint i = self; i < vectors * kChunk; i += gl_WorkGroupSize.x) {
      const uint row = slice_block() * kChunk + i % kChunk;
      if (row >= pc.num_rows) continue;
      float y = 0.0;
      [[dont_unroll]] for (uint part = 0; part < kParts; ++part) y += parts[i * kParts + part];
      partials[(gl_WorkGroupID.x * pc.num_vectors + first + i / kChunk) * pc.num_rows + row] = y;
    }
  }
}
