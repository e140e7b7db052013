// Products of up to kBatch vectors with the weights that a tile's values stand for; no weight is ever made.
//
// Bindings 2 and 3: x f32 and partial results f32 [column band][num_vectors][row_end - row_begin].
#include "consume.glsl"

layout(std430, set = 0, binding = 2) readonly buffer Vectors { float x[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };

shared float latent_sums[kTilesPerGroup * kChunk];

// Products: of the current row block, sum over this invocation's columns of x * scale * z, [kBatch][16].
float sums[kBatch * kChunk];

// What the column in hand is multiplied by.
vec2 step_and_shrink;
float factor[kBatch];

void begin_block(Tile t, uint place, uint block) {
  [[unroll]] for (uint i = 0; i < kBatch * kChunk; ++i) sums[i] = 0.0;
}

void load_column(Tile t, uint column) {
  const float scale = uintBitsToFloat(window_data[pc.scale_at + t.first_column + column]);
  step_and_shrink = level_step(t.first_column + column);
  [[unroll]] for (uint v = 0; v < kBatch; ++v) {
    // If a product has fewer vectors than the kernel, the last vector is there several times.
    const uint at = pc.x_at + min(v, pc.num_vectors - 1u) * pc.x_stride + t.first_column + column;
    factor[v] = scale != 0.0 ? x[at] * scale : 0.0;
  }
}

void begin_slot(Tile t, uint column) {
  if (kLoadAhead) load_column(t, column);
}

void add_chunk(Tile t, uint place, uint lane, uint column) {
  if (!kLoadAhead) load_column(t, column);
  [[unroll]] for (uint pair = 0; pair < kPairs; ++pair) {
    const vec2 z = dequantize(chunk_words[chunk_at(place, pair, lane)], step_and_shrink);
    [[unroll]] for (uint v = 0; v < kBatch; ++v) {
      sums[v * kChunk + 2u * pair] += factor[v] * z.x;
      sums[v * kChunk + 2u * pair + 1u] += factor[v] * z.y;
    }
  }
}

// After the 16 steps of a slot, by all invocations of the tile.
void consume_slot(Tile t, uint place, uint block, uint slot) {
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    const uint column = slot * kNumLanes + lane;
    if (column < t.width) add_chunk(t, place, lane, column);
  }
}

uint partial_at(Tile t, uint v, uint row) {
  const uint band = t.first_column / pc.tile_cols;
  return pc.out_at + (band * pc.num_vectors + v) * (pc.row_end - pc.row_begin) + row - pc.row_begin;
}

// After a row block. The skip commutes with the sum over columns, so it is applied to the sums of all lanes.
void end_block(Tile t, uint place, uint block) {
  const uint self = invocation_of_tile();
  const uint count = invocations_per_tile();  // a power of two
  const uint row0 = (t.first_block + block) * kChunk;
  [[unroll]] for (uint v = 0; v < kBatch; ++v) {
    [[unroll]] for (uint part = 0; part < 2u; ++part) {
      tile_barrier();
      [[unroll]] for (uint i = 0; i < kPairs; ++i) {
        chunk_words[chunk_at(place, i, self)] = floatBitsToUint(sums[v * kChunk + part * kPairs + i]);
      }
      tile_barrier();
      for (uint i = self; i < kPairs; i += count) {
        float sum = 0.0;
        // Each begins elsewhere: in other banks than its neighbours.
        for (uint j = 0; j < count; ++j) sum += uintBitsToFloat(chunk_words[chunk_at(place, i, (i + j) & (count - 1u))]);
        latent_sums[place * kChunk + part * kPairs + i] = sum;
      }
    }
    tile_barrier();
    for (uint i = self; i < kChunk; i += count) {
      float y = 0.0;
      if (kIdentity != 0) {
        y = latent_sums[place * kChunk + i];
      } else {
        for (uint c = 0; c < kChunk; ++c) y += matrix[i * (kChunk / 4u) + (c >> 2)][c & 3u] * latent_sums[place * kChunk + c];
      }
      if (t.width != 0u && v < pc.num_vectors && is_wanted(row0 + i)) partials[partial_at(t, v, row0 + i)] = y;
    }
  }
  tile_barrier();
}

// A tile that does not decode, said by one invocation: it shows in every number.
void report(Tile t, uint index, uint status) {
  if (status == kTileOk) return;
  for (uint v = 0; v < pc.num_vectors; ++v) {
    for (uint row = t.first_block * kChunk; row < (t.first_block + t.blocks) * kChunk; ++row) {
      if (is_wanted(row)) partials[partial_at(t, v, row)] = uintBitsToFloat(0x7fc00000u);
    }
  }
}
