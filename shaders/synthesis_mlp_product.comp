#version 450
// Products of up to 8 vectors with the weights that a slice's values stand for, from values through the synthesis network
// (common/synthesis.glsl). The last layer commutes with the sum over columns (doc/architecture.md, "Fused product"): a
// workgroup takes kChunks neighbouring columns of one row block, sums their features, and applies the layer to the sums; no
// weight is ever made.
// Bindings: 2 x f32 [vector][width], then the tiles' status words, then values; 3 partial results f32
// [column group][num_vectors][num_rows]. groups: column groups x row blocks.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"

layout(push_constant) uniform Parameters {
  uint level_at;
  uint scale_at;  // index in window_data of the columns' scales
  uint width;     // columns of the window
  uint num_levels;
  uint status_at;  // index in values[] of the status words of the slice's tiles, and of its values
  uint values_at;
  uint tile_cols;  // columns and row blocks of a tile that is not at the edge
  uint tile_blocks;
  uint num_vectors;
  uint num_rows;     // of the slice
  uint first_block;  // row block of the slice that the workgroups begin with
} pc;
#include "common/synthesis.glsl"

layout(std430, set = 0, binding = 2) readonly buffer Vectors { float x[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };

const uint kMaxVectors = 8u;
// Features of a chunk: h, 1 (whose factor in the last layer is c), z.
const uint kFeatures = kWidth + 1u + kChunk;
// Invocations that share an output of the last layer; the workgroup has 72 at least.
const uint kParts = kOutputThreads * kChunkThreads / kChunk;

shared float factors[kMaxVectors * kChunks];  // x times scale; 0 beyond the last column
shared float sums[kFeatures];                 // of one vector
shared float parts[kParts * kChunk];

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

float feature(uint c, uint i) {
  if (i < kWidth) return get_h(c, i);
  if (i == kWidth) return 1.0;
  const uint channel = i - kWidth - 1u;
  return h[kScratch + c * (kChunk / 4u) + (channel >> 2)][channel & 3u];
}

// What feature i counts in output `channel`; `at`: where C begins in the network.
float last_layer(uint at, uint channel, uint i) {
  if (i < kWidth) return network[at + channel * kWidth + i];
  if (i == kWidth) return network[at + kChunk * kWidth + channel];
  return network[at + kChunk * kWidth + kChunk + channel * kChunk + i - kWidth - 1u];
}

void main() {
  [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < pc.num_vectors * kChunks; i += gl_WorkGroupSize.x) {
    factors[i] = factor(i / kChunks, i % kChunks);
  }
  const uint at = run_blocks();
  [[dont_unroll]] for (uint v = 0; v < pc.num_vectors; ++v) {
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kFeatures; i += gl_WorkGroupSize.x) {
      float sum = 0.0;
      [[dont_unroll]] for (uint c = 0; c < kChunks; ++c) {
        // Where a factor is 0, h may be beyond what f32 holds.
        const float f = factors[v * kChunks + c];
        if (f != 0.0) sum += f * feature(c, i);
      }
      sums[i] = sum;
    }
    barrier();
    if (gl_LocalInvocationIndex < kParts * kChunk) {
      // Neighbours take neighbouring features.
      const uint channel = gl_LocalInvocationIndex / kParts;
      float sum = 0.0;
      [[dont_unroll]] for (uint i = gl_LocalInvocationIndex % kParts; i < kFeatures; i += kParts) {
        sum += last_layer(at, channel, i) * sums[i];
      }
      parts[gl_LocalInvocationIndex] = sum;
    }
    barrier();
    const uint row = slice_block() * kChunk + gl_LocalInvocationIndex;
    if (gl_LocalInvocationIndex < kChunk && row < pc.num_rows) {
      float y = 0.0;
      [[dont_unroll]] for (uint i = 0; i < kParts; ++i) y += parts[gl_LocalInvocationIndex * kParts + i];
      partials[(gl_WorkGroupID.x * pc.num_vectors + v) * pc.num_rows + row] = y;
    }
  }
}
