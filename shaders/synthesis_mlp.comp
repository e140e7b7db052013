#version 450
// The synthesis network with residual blocks, any width; must match synthesize_chunks (runtime/codec/synthesis.h) within
// the tolerance of doc/format.md, section 5.5.
// Bindings: 0 network, 1 window input, 2 values, 3 weights in f32, or f16 or bf16 two to a word. The network is stored so that invocations
// next to each other, which compute neighbouring outputs, read neighbouring numbers:
//   (step, shrink)[K]; A transposed [16][w], a[w]; per block V transposed [w][w], v[w], gain[w] bias[w] if LayerNorm,
//   E[K][w]; C[16][w], c[16], S[16][16].
// Workgroup: kOutputThreads x kChunkThreads. It takes kChunkThreads * kChunksPerThread chunks through the network with h
// in shared memory; invocation (o, g) computes the outputs o, o + kOutputThreads, ... of the chunks of its group.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/half.glsl"
#include "common/synthesis.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kWidth = 64;
layout(constant_id = 2) const uint kOutputThreads = 64;
layout(constant_id = 3) const uint kChunkThreads = 2;
layout(constant_id = 4) const uint kOutputsPerThread = 1;
layout(constant_id = 5) const uint kChunksPerThread = 16;
layout(constant_id = 6) const uint kBlocks = 2;
layout(constant_id = 7) const uint kActivation = 1;  // 1 ReLU, 2 SiLU
layout(constant_id = 8) const uint kLayerNorm = 0;
layout(constant_id = 9) const uint kOutput = 2;  // kConsumeF32, kConsumeF16 or kConsumeBf16

const uint kChunks = kChunkThreads * kChunksPerThread;
const uint kStride = kWidth + 1;  // odd: neighbouring chunks lie in different banks
const uint kOwn = kOutputsPerThread * kChunksPerThread;

shared float h[kChunks * kStride];
shared float scratch[kChunks * kChunk];  // z at the start and at the end, partial sums of LayerNorm in between
shared float squares[kChunks * kChunk];

// z of the workgroup's chunks to scratch; chunks beyond the last are zero.
void load_latents(uint first) {
  [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
    const uint chunk = first + i / kChunk;
    float z = 0.0;
    if (chunk < pc.num_chunks) {
      const uint column = chunk % pc.width;
      z = dequantize(chunk / pc.width, column, column_level(column), i % kChunk);
    }
    scratch[i] = z;
  }
  barrier();
}

// Loops over own[] have to be unrolled, so that it lives in registers; the others must not be: compilers that unroll them
// as well take half a minute.

// The weight of channel `channel` of the workgroup's chunk c, in row `row` of the window, from h and z; `at`: where C
// begins in the network.
float weight(uint at, uint first, uint c, uint channel, uint row) {
  float y = network[at + kChunk * kWidth + channel];
  [[dont_unroll]] for (uint k = 0; k < kWidth; ++k) y += network[at + channel * kWidth + k] * h[c * kStride + k];
  const uint skip_at = at + kChunk * kWidth + kChunk + channel * kChunk;
  [[dont_unroll]] for (uint k = 0; k < kChunk; ++k) y += network[skip_at + k] * scratch[c * kChunk + k];
  return apply_scales(y, row, (first + c) % pc.width);
}

float activate(float u) { return kActivation == 1 ? max(u, 0.0) : u / (1.0 + exp(-u)); }

void main() {
  const uint first = gl_WorkGroupID.x * kChunks;
  const uint output0 = gl_LocalInvocationIndex % kOutputThreads;
  const uint chunk0 = gl_LocalInvocationIndex / kOutputThreads * kChunksPerThread;
  float own[kOwn];  // [output][chunk] of this invocation
  float kept[kOwn];
  uint level[kChunksPerThread];
  for (uint c = 0; c < kChunksPerThread; ++c) {
    const uint chunk = first + chunk0 + c;
    level[c] = chunk < pc.num_chunks ? column_level(chunk % pc.width) : 0u;
  }

  load_latents(first);
  uint at = 2 * pc.num_levels;
  for (uint q = 0; q < kOutputsPerThread; ++q) {
    const uint o = output0 + q * kOutputThreads;
    if (o < kWidth) {
      for (uint c = 0; c < kChunksPerThread; ++c) {
        float sum = network[at + kChunk * kWidth + o];
        [[dont_unroll]] for (uint k = 0; k < kChunk; ++k) {
          sum += network[at + k * kWidth + o] * scratch[(chunk0 + c) * kChunk + k];
        }
        h[(chunk0 + c) * kStride + o] = sum;
      }
    }
  }
  barrier();
  at += (kChunk + 1) * kWidth;

  [[dont_unroll]] for (uint block = 0; block < kBlocks; ++block) {
    const uint bias_at = at + kWidth * kWidth;
    const uint norm_at = bias_at + kWidth;
    const uint embedding_at = norm_at + (kLayerNorm != 0 ? 2 * kWidth : 0);
    for (uint q = 0; q < kOutputsPerThread; ++q) {
      const uint o = min(output0 + q * kOutputThreads, kWidth - 1);
      for (uint c = 0; c < kChunksPerThread; ++c) own[q * kChunksPerThread + c] = network[bias_at + o];
    }
    [[dont_unroll]] for (uint k = 0; k < kWidth; ++k) {
      float input_k[kChunksPerThread];
      for (uint c = 0; c < kChunksPerThread; ++c) input_k[c] = h[(chunk0 + c) * kStride + k];
      for (uint q = 0; q < kOutputsPerThread; ++q) {
        const float factor = network[at + k * kWidth + min(output0 + q * kOutputThreads, kWidth - 1)];
        for (uint c = 0; c < kChunksPerThread; ++c) own[q * kChunksPerThread + c] += factor * input_k[c];
      }
    }
    barrier();

    if (kLayerNorm != 0) {
      // u takes h's place while mean and variance are summed up: 16 invocations to a chunk, then everyone adds 16 parts.
      for (uint q = 0; q < kOutputsPerThread; ++q) {
        const uint o = output0 + q * kOutputThreads;
        if (o < kWidth) {
          for (uint c = 0; c < kChunksPerThread; ++c) {
            kept[q * kChunksPerThread + c] = h[(chunk0 + c) * kStride + o];
            h[(chunk0 + c) * kStride + o] = own[q * kChunksPerThread + c];
          }
        }
      }
      barrier();
      const uint part = kWidth / kChunk;
      [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
        const uint from = i / kChunk * kStride + i % kChunk * part;
        float sum = 0.0;
        [[dont_unroll]] for (uint j = 0; j < part; ++j) sum += h[from + j];
        scratch[i] = sum;
      }
      barrier();
      [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
        const uint from = i / kChunk * kStride + i % kChunk * part;
        float mean = 0.0;
        [[dont_unroll]] for (uint j = 0; j < kChunk; ++j) mean += scratch[i / kChunk * kChunk + j];
        mean /= float(kWidth);
        float sum = 0.0;
        [[dont_unroll]] for (uint j = 0; j < part; ++j) sum += (h[from + j] - mean) * (h[from + j] - mean);
        squares[i] = sum;
      }
      barrier();
      for (uint c = 0; c < kChunksPerThread; ++c) {
        float mean = 0.0;
        float variance = 0.0;
        [[dont_unroll]] for (uint j = 0; j < kChunk; ++j) {
          mean += scratch[(chunk0 + c) * kChunk + j];
          variance += squares[(chunk0 + c) * kChunk + j];
        }
        mean /= float(kWidth);
        const float deviation = sqrt(variance / float(kWidth) + 1e-5);
        for (uint q = 0; q < kOutputsPerThread; ++q) {
          const uint o = min(output0 + q * kOutputThreads, kWidth - 1);
          const float u = (own[q * kChunksPerThread + c] - mean) / deviation;
          own[q * kChunksPerThread + c] = u * network[norm_at + o] + network[norm_at + kWidth + o];
        }
      }
    }

    for (uint q = 0; q < kOutputsPerThread; ++q) {
      const uint o = output0 + q * kOutputThreads;
      if (o < kWidth) {
        for (uint c = 0; c < kChunksPerThread; ++c) {
          const uint slot = (chunk0 + c) * kStride + o;
          const float before = kLayerNorm != 0 ? kept[q * kChunksPerThread + c] : h[slot];
          h[slot] = (before + activate(own[q * kChunksPerThread + c])) * network[embedding_at + level[c] * kWidth + o];
        }
      }
    }
    barrier();
    at = embedding_at + pc.num_levels * kWidth;
  }

  // Neighbouring invocations take neighbouring columns, so that the weights' rows are written in one go.
  load_latents(first);
  if (kOutput == kConsumeF32) {
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
      const uint chunk = first + i % kChunks;
      const uint channel = i / kChunks;
      const uint row = weight_row(chunk / pc.width, channel);
      if (chunk >= pc.num_chunks || !is_wanted(row)) continue;
      weights[out_index(row, chunk % pc.width)] = weight(at, first, i % kChunks, channel, row);
    }
  } else {
    // Both columns of a word: kChunks and the width are even.
    [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk / 2; i += gl_WorkGroupSize.x) {
      const uint c = i % (kChunks / 2) * 2;
      const uint chunk = first + c;
      const uint channel = i / (kChunks / 2);
      const uint row = weight_row(chunk / pc.width, channel);
      if (chunk >= pc.num_chunks || !is_wanted(row)) continue;
      const uvec2 bits =
          floatBitsToUint(vec2(weight(at, first, c, channel, row), weight(at, first, c + 1, channel, row)));
      half_pairs[out_index(row, chunk % pc.width) >> 1] = kOutput == kConsumeF16
                                                              ? to_f16(bits.x) | (to_f16(bits.y) << 16)
                                                              : to_bf16(bits.x) | (to_bf16(bits.y) << 16);
    }
  }
}
