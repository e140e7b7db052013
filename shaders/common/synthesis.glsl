// The synthesis network with residual blocks, any width, but for its last layer; what becomes of it is the including
// kernel's. Must match run_blocks (runtime/codec/synthesis.cpp) within the tolerance of doc/format.md, section 5.5.
// Bindings: 0 network, 1 window input, 2 values, and 3 is the kernel's. The network is stored so that invocations next to
// each other, which compute neighbouring outputs, read neighbouring numbers:
//   (step, shrink)[K]; input_weight transposed [16][w], input_bias[w]; per block weight transposed [w][w], bias[w],
//   norm_gain[w] norm_bias[w] if LayerNorm, level_embedding[K][w]; output_weight[16][w], output_bias[16],
//   skip_weight[16][16]. The first block has the folded weight [16][w] and bias of fold_first_block in place of its own.
// Workgroup: kOutputThreads x kChunkThreads. It takes kChunkThreads * kChunksPerThread chunks through the network with h
// in shared memory; invocation (o, g) computes the outputs o, o + kOutputThreads, ... of the chunks of its group.
// The including kernel declares pc, with level_at and num_levels, before it, and defines the functions declared below after
// it.
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kWidth = 64;
layout(constant_id = 2) const uint kOutputThreads = 64;
layout(constant_id = 3) const uint kChunkThreads = 2;
layout(constant_id = 4) const uint kOutputsPerThread = 1;
layout(constant_id = 5) const uint kChunksPerThread = 16;
layout(constant_id = 6) const uint kBlocks = 2;
layout(constant_id = 7) const uint kActivation = 1;  // 1 ReLU, 2 SiLU
layout(constant_id = 8) const uint kLayerNorm = 0;

layout(std430, set = 0, binding = 0) readonly buffer Network { float network[]; };
layout(std430, set = 0, binding = 1) readonly buffer Window { uint window_data[]; };
layout(std430, set = 0, binding = 2) readonly buffer Values { uint values[]; };

const uint kChunks = kChunkThreads * kChunksPerThread;
const uint kStride = kWidth / 4 + 1;  // of four numbers, odd: neighbouring chunks lie in different banks
const uint kOwn = kOutputsPerThread * kChunksPerThread;

// Is there a chunk c of the workgroup's kChunks; its column in the window; where its values begin, two to a word.
bool has_chunk(uint c);
uint chunk_column(uint c);
uint chunk_values(uint c);

// Four numbers at a time: what one invocation reads of h, its neighbours read, too, and shared memory answers one read a
// cycle, while a core has time for several multiplications.
const uint kScratch = kChunks * kStride;  // behind h: z at the start and at the end, partial sums of LayerNorm in between
shared vec4 h[kScratch + kChunks * kChunk / 4];
shared vec4 squares[kChunks * kChunk / 4];

uint column_level(uint column) {
  return (window_data[pc.level_at + (column >> 2)] >> ((column & 3u) * 8u)) & 255u;
}

// z of one channel of a chunk (doc/format.md, section 5.5).
float dequantize(uint c, uint channel) {
  const uint word = values[chunk_values(c) + (channel >> 1)];
  const int k = (channel & 1u) == 0 ? int(word << 16) >> 16 : int(word) >> 16;
  const uint level = column_level(chunk_column(c));
  return (float(k) - float(sign(k)) * network[2u * level + 1u]) * network[2u * level];
}

// z of the workgroup's chunks; chunks beyond the last are zero.
void load_latents() {
  [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
    h[kScratch + (i >> 2)][i & 3u] = has_chunk(i / kChunk) ? dequantize(i / kChunk, i % kChunk) : 0.0;
  }
  barrier();
}

// Loops over own[] have to be unrolled, so that it lives in registers; the others must not be: compilers that unroll them
// as well take half a minute.

// Four numbers of the network, one after the other or kWidth apart.
vec4 network_row(uint at) { return vec4(network[at], network[at + 1], network[at + 2], network[at + 3]); }
vec4 network_column(uint at) {
  return vec4(network[at], network[at + kWidth], network[at + 2 * kWidth], network[at + 3 * kWidth]);
}

float get_h(uint c, uint o) { return h[c * kStride + (o >> 2)][o & 3u]; }
void set_h(uint c, uint o, float value) { h[c * kStride + (o >> 2)][o & 3u] = value; }

float sum_of_parts(vec4 a, vec4 b, vec4 c, vec4 d) { return dot((a + b) + (c + d), vec4(1.0)); }

float activate(float u) { return kActivation == 1 ? max(u, 0.0) : u / (1.0 + exp(-u)); }

// All chunks of the workgroup: afterwards h has their hidden states and, from kScratch on, z, and everyone may read them. Returns
// where output_weight begins in the network.
uint run_blocks() {
  const uint output0 = gl_LocalInvocationIndex % kOutputThreads;
  const uint chunk0 = gl_LocalInvocationIndex / kOutputThreads * kChunksPerThread;
  float own[kOwn];  // [output][chunk] of this invocation
  float kept[kOwn];
  uint level[kChunksPerThread];
  for (uint c = 0; c < kChunksPerThread; ++c) {
    level[c] = has_chunk(chunk0 + c) ? column_level(chunk_column(chunk0 + c)) : 0u;
  }

  load_latents();
  uint at = 2 * pc.num_levels;
  for (uint q = 0; q < kOutputsPerThread; ++q) {
    const uint o = output0 + q * kOutputThreads;
    if (o < kWidth) {
      for (uint c = 0; c < kChunksPerThread; ++c) {
        float sum = network[at + kChunk * kWidth + o];
        [[dont_unroll]] for (uint k = 0; k < kChunk / 4; ++k) {
          sum += dot(network_column(at + 4 * k * kWidth + o), h[kScratch + (chunk0 + c) * (kChunk / 4) + k]);
        }
        set_h(chunk0 + c, o, sum);
      }
    }
  }
  barrier();
  at += (kChunk + 1) * kWidth;

  [[dont_unroll]] for (uint block = 0; block < kBlocks; ++block) {
    // The first block's inputs are z.
    const uint num_inputs = block == 0 ? kChunk : kWidth;
    const uint input_at = block == 0 ? kScratch : 0;
    const uint input_stride = block == 0 ? kChunk / 4 : kStride;
    const uint bias_at = at + num_inputs * kWidth;
    const uint norm_at = bias_at + kWidth;
    const uint embedding_at = norm_at + (kLayerNorm != 0 ? 2 * kWidth : 0);
    for (uint q = 0; q < kOutputsPerThread; ++q) {
      const uint o = min(output0 + q * kOutputThreads, kWidth - 1);
      for (uint c = 0; c < kChunksPerThread; ++c) own[q * kChunksPerThread + c] = network[bias_at + o];
    }
    [[dont_unroll]] for (uint k = 0; k < num_inputs / 4; ++k) {
      vec4 factors[kOutputsPerThread];
      for (uint q = 0; q < kOutputsPerThread; ++q) {
        factors[q] = network_column(at + 4 * k * kWidth + min(output0 + q * kOutputThreads, kWidth - 1));
      }
      for (uint c = 0; c < kChunksPerThread; ++c) {
        const vec4 inputs = h[input_at + (chunk0 + c) * input_stride + k];
        for (uint q = 0; q < kOutputsPerThread; ++q) own[q * kChunksPerThread + c] += dot(factors[q], inputs);
      }
    }
    barrier();

    if (kLayerNorm != 0) {
      // u takes h's place while mean and variance are summed up: 16 invocations to a chunk, then everyone adds 16 parts.
      for (uint q = 0; q < kOutputsPerThread; ++q) {
        const uint o = output0 + q * kOutputThreads;
        if (o < kWidth) {
          for (uint c = 0; c < kChunksPerThread; ++c) {
            kept[q * kChunksPerThread + c] = get_h(chunk0 + c, o);
            set_h(chunk0 + c, o, own[q * kChunksPerThread + c]);
          }
        }
      }
      barrier();
      const uint part = kWidth / kChunk;
      [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
        float sum = 0.0;
        [[dont_unroll]] for (uint j = 0; j < part; ++j) sum += get_h(i / kChunk, i % kChunk * part + j);
        h[kScratch + (i >> 2)][i & 3u] = sum;
      }
      barrier();
      [[dont_unroll]] for (uint i = gl_LocalInvocationIndex; i < kChunks * kChunk; i += gl_WorkGroupSize.x) {
        const uint parts = kScratch + i / kChunk * 4;
        const float mean = sum_of_parts(h[parts], h[parts + 1], h[parts + 2], h[parts + 3]) / float(kWidth);
        float sum = 0.0;
        [[dont_unroll]] for (uint j = 0; j < part; ++j) {
          const float distance = get_h(i / kChunk, i % kChunk * part + j) - mean;
          sum += distance * distance;
        }
        squares[i >> 2][i & 3u] = sum;
      }
      barrier();
      for (uint c = 0; c < kChunksPerThread; ++c) {
        const uint parts = (chunk0 + c) * 4;
        const uint sums = kScratch + parts;
        const float mean = sum_of_parts(h[sums], h[sums + 1], h[sums + 2], h[sums + 3]) / float(kWidth);
        const float variance = sum_of_parts(squares[parts], squares[parts + 1], squares[parts + 2], squares[parts + 3]);
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
          const float before = kLayerNorm != 0 ? kept[q * kChunksPerThread + c] : get_h(chunk0 + c, o);
          set_h(chunk0 + c, o,
                (before + activate(own[q * kChunksPerThread + c])) * network[embedding_at + level[c] * kWidth + o]);
        }
      }
    }
    barrier();
    at = embedding_at + pc.num_levels * kWidth;
  }

  load_latents();
  return at;
}
