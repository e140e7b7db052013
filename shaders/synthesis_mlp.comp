#version 450
// The synthesis network with all of its layers, values to weights: common/synthesis.glsl. Must match synthesize_chunks
// (runtime/codec/synthesis.h) within the tolerance of doc/format.md, section 5.5.
// Binding 3: weights in f32, or f16 or bf16 two to a word.
#extension GL_GOOGLE_include_directive : require
#include "common/constants.glsl"
#include "common/half.glsl"
#include "common/push_constants.h"

layout(constant_id = 9) const uint kOutput = 2;  // kConsumeF32, kConsumeF16 or kConsumeBf16
layout(push_constant) uniform Parameters { SynthesisPush pc; };
#include "common/synthesis.glsl"

layout(std430, set = 0, binding = 3) writeonly buffer Floats { float weights[]; };
layout(std430, set = 0, binding = 3) writeonly buffer HalfPairs { uint half_pairs[]; };

// A workgroup's chunks go on from one row block to the next.
uint chunk_number(uint c) { return gl_WorkGroupID.x * kChunks + c; }
bool has_chunk(uint c) { return chunk_number(c) < pc.num_chunks; }
uint chunk_column(uint c) { return chunk_number(c) % pc.width; }
uint chunk_values(uint c) { return (pc.first_block * pc.width + chunk_number(c)) * (kChunk / 2u); }

uint weight_row(uint c, uint channel) { return (pc.first_block + chunk_number(c) / pc.width) * kChunk + channel; }
bool is_wanted(uint row) { return row >= pc.row_begin && row < pc.row_end; }
uint out_index(uint row, uint column) { return pc.out_at + (row - pc.row_begin) * pc.out_stride + column; }

float apply_scales(float y, uint row, uint column) {
  const float scale = uintBitsToFloat(window_data[pc.scale_at + column]);
  if (scale == 0.0) return 0.0;
  if (pc.row_scale_at == kNoRowScale) return y * scale;
  const float row_scale = uintBitsToFloat(window_data[pc.row_scale_at + row]);
  return row_scale != 0.0 ? y * scale * row_scale : 0.0;
}

// The weight of channel `channel` of the workgroup's chunk c, in row `row` of the window, from h and z; `at`: where
// output_weight begins in the network.
float weight(uint at, uint c, uint channel, uint row) {
  float y = network[at + kChunk * kWidth + channel];
  [[dont_unroll]] for (uint k = 0; k < kWidth / 4; ++k) {
    y += dot(network_row(at + channel * kWidth + 4 * k), h[c * kStride + k]);
  }
  const uint skip_at = at + kChunk * kWidth + kChunk + channel * kChunk;
  [[dont_unroll]] for (uint k = 0; k < kChunk / 4; ++k) {
    y += dot(network_row(skip_at + 4 * k), h[kScratch + c * (kChunk / 4) + k]);
  }
  return apply_scales(y, row, chunk_column(c));
}

void main() {
  const uint at = run_blocks();
  // Neighbouring invocations take neighbouring columns, so that the weights' rows are written in one go.
  if (kOutput == kConsumeF32) {
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
      const uint c = i % kChunks;
      const uint channel = i / kChunks;
      const uint row = weight_row(c, channel);
      if (!has_chunk(c) || !is_wanted(row)) continue;
      weights[out_index(row, chunk_column(c))] = weight(at, c, channel, row);
    }
  } else {
    // Both columns of a word: kChunks and the width are even.
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk / 2; i += gl_WorkGroupSize.x) {
      const uint c = i % (kChunks / 2) * 2;
      const uint channel = i / (kChunks / 2);
      const uint row = weight_row(c, channel);
      if (!has_chunk(c) || !is_wanted(row)) continue;
      const uvec2 bits = floatBitsToUint(vec2(weight(at, c, channel, row), weight(at, c + 1, channel, row)));
      half_pairs[out_index(row, chunk_column(c)) >> 1] = kOutput == kConsumeF16
                                                              ? to_f16(bits.x) | (to_f16(bits.y) << 16)
                                                              : to_bf16(bits.x) | (to_bf16(bits.y) << 16);
    }
  }
}
