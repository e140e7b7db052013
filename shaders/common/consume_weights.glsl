// Takes a tile's values on, 16 at a time as the lanes have them. They become nothing (the tile is only checked), values,
// or weights in f32, f16 or bf16. All of it happens in registers and a little shared memory; no intermediate result goes
// through a buffer. With NWC_STORAGE16 only f16 and bf16 are possible, and they are written one by one.
//
// Bindings 2 and 3: output, whose first row is row_begin (of values a multiple of 16), and status of each tile. Values
// are written 16 of a column at a time: out_stride is columns from row block to row block, out_at a uvec4.
#include "consume.glsl"

#ifdef NWC_STORAGE16
layout(std430, set = 0, binding = 2) writeonly buffer Halves { uint16_t halves[]; };
#else
layout(std430, set = 0, binding = 2) writeonly buffer Values { uvec4 values[]; };  // i16 [row block][column][16]
layout(std430, set = 0, binding = 2) writeonly buffer Floats { float weights[]; };
layout(std430, set = 0, binding = 2) writeonly buffer HalfPairs { uint half_pairs[]; };
#endif
layout(std430, set = 0, binding = 3) writeonly buffer TileStatus { uint tile_status[]; };

// Row scales are loaded once for a row block: the device may not move loads across the stores of other chunks by itself,
// because both could be the same memory.
shared float row_scales[kTilesPerGroup * kChunk];  // of the current row block; 0 for rows that are not wanted
vec2 step_and_shrink;                              // of the column in hand
float column_scale;

void begin_block(Tile t, uint place, uint block) {
  if (kConsumer == kConsumeNothing || kConsumer == kConsumeValues) return;
  tile_barrier();
  for (uint i = invocation_of_tile(); i < kChunk; i += invocations_per_tile()) {
    const uint row = (t.first_block + block) * kChunk + i;
    float scale = is_wanted(row) ? 1.0 : 0.0;
    if (is_wanted(row) && pc.row_scale_at != kNoRowScale) scale = uintBitsToFloat(window_data[pc.row_scale_at + row]);
    row_scales[place * kChunk + i] = scale;
  }
  tile_barrier();
}

void load_column(Tile t, uint column) {
  step_and_shrink = level_step(t.first_column + column);
  column_scale = uintBitsToFloat(window_data[pc.scale_at + t.first_column + column]);
}

void begin_slot(Tile t, uint column) {
  if (kLoadAhead && kConsumer != kConsumeNothing && kConsumer != kConsumeValues) load_column(t, column);
}

void end_block(Tile t, uint place, uint block) {}
void report(Tile t, uint index, uint status) { tile_status[index] = status; }

// A scale of 0 gives 0, whatever it is multiplied by.
float apply_scales(float y, float scale, float row_scale) {
  return mix(0.0, y * scale * row_scale, scale != 0.0 && row_scale != 0.0);
}

uint out_index(uint row, uint column) { return pc.out_at + (row - pc.row_begin) * pc.out_stride + column; }

uint to_half(float weight) {
  const uint bits = floatBitsToUint(weight);
  return kConsumer == kConsumeBf16 ? to_bf16(bits) : to_f16(bits);
}

// Two weights of a lane's chunk: written, or as a pair of halves in place of the values.
void write_pair(Tile t, uint place, uint lane, uint pair, uint row0, uint column, vec2 y) {
  const uint row = row0 + 2u * pair;
  const uint at = place * kChunk + 2u * pair;
  const vec2 weight = vec2(apply_scales(y.x, column_scale, row_scales[at]),
                           apply_scales(y.y, column_scale, row_scales[at + 1u]));
#ifdef NWC_STORAGE16
  const uint to = out_index(row, t.first_column + column);
  if (is_wanted(row)) halves[to] = uint16_t(to_half(weight.x));
  if (is_wanted(row + 1u)) halves[to + pc.out_stride] = uint16_t(to_half(weight.y));
#else
  if (kConsumer == kConsumeF32) {
    const uint to = out_index(row, t.first_column + column);
    if (is_wanted(row)) weights[to] = weight.x;
    if (is_wanted(row + 1u)) weights[to + pc.out_stride] = weight.y;
  } else {
    chunk_words[chunk_at(place, pair, lane)] = to_half(weight.x) | (to_half(weight.y) << 16);
  }
#endif
}

vec2 latent_pair(uint place, uint lane, uint pair) {
  return dequantize(chunk_words[chunk_at(place, pair, lane)], step_and_shrink);
}

void write_weights(Tile t, uint place, uint lane, uint block, uint column) {
  if (!kLoadAhead) load_column(t, column);
  const uint row0 = (t.first_block + block) * kChunk;
  if (kIdentity != 0) {
    [[unroll]] for (uint pair = 0; pair < kPairs; ++pair) {
      write_pair(t, place, lane, pair, row0, column, latent_pair(place, lane, pair));
    }
    return;
  }
  vec4 z[kChunk / 4u];
  [[unroll]] for (uint i = 0; i < kChunk / 4u; ++i) {
    z[i] = vec4(latent_pair(place, lane, 2u * i), latent_pair(place, lane, 2u * i + 1u));
  }
  [[dont_unroll]] for (uint pair = 0; pair < kPairs; ++pair) {
    vec2 y = vec2(0.0);
    [[unroll]] for (uint i = 0; i < kChunk / 4u; ++i) {
      y.x += dot(matrix[pair * (kChunk / 2u) + i], z[i]);
      y.y += dot(matrix[pair * (kChunk / 2u) + kChunk / 4u + i], z[i]);
    }
    write_pair(t, place, lane, pair, row0, column, y);
  }
}

#ifdef NWC_STORAGE16
// After the 16 steps of a slot, by all invocations of the tile.
void consume_slot(Tile t, uint place, uint block, uint slot) {
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    const uint column = slot * kNumLanes + lane;
    if (column < t.width) write_weights(t, place, lane, block, column);
  }
}
#else
// Words of two neighbouring columns, one row each: of a pair of lanes, the even one writes the upper eight rows, the odd
// one the lower eight.
void write_half_pairs(Tile t, uint place, uint lane, uint block, uint column) {
  const uint odd = lane & 1u;
  const uint even_lane = lane - odd;
  const uint row0 = (t.first_block + block) * kChunk;
  [[dont_unroll]] for (uint i = 0; i < kPairs / 2u; ++i) {
    const uint pair = odd * (kPairs / 2u) + i;
    const uint left = chunk_words[chunk_at(place, pair, even_lane)];
    const uint right = chunk_words[chunk_at(place, pair, even_lane + 1u)];
    const uint row = row0 + 2u * pair;
    const uint column0 = t.first_column + column - odd;
    if (is_wanted(row)) half_pairs[out_index(row, column0) >> 1] = (left & 0xffffu) | (right << 16);
    if (is_wanted(row + 1u)) half_pairs[out_index(row + 1u, column0) >> 1] = (left >> 16) | (right & 0xffff0000u);
  }
}

// After the 16 steps of a slot, by all invocations of the tile.
void consume_slot(Tile t, uint place, uint block, uint slot) {
  if (kConsumer == kConsumeNothing) return;
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    const uint column = slot * kNumLanes + lane;
    if (column >= t.width) continue;
    if (kConsumer == kConsumeValues) {
      const uint row_block = t.first_block + block - pc.row_begin / kChunk;
      const uint at = pc.out_at + (row_block * pc.out_stride + t.first_column + column) * (kPairs / 4u);
      for (uint i = 0; i < kPairs / 4u; ++i) {
        values[at + i] =
            uvec4(chunk_words[chunk_at(place, 4u * i, lane)], chunk_words[chunk_at(place, 4u * i + 1u, lane)],
                  chunk_words[chunk_at(place, 4u * i + 2u, lane)], chunk_words[chunk_at(place, 4u * i + 3u, lane)]);
      }
    } else {
      write_weights(t, place, lane, block, column);
    }
  }
  if (kConsumer == kConsumeF16 || kConsumer == kConsumeBf16) {
    tile_barrier();
    for (uint b = 0; b < kLanesPerInvocation; ++b) {
      const uint lane = lane_of(b);
      const uint column = slot * kNumLanes + lane;
      if (column < t.width) write_half_pairs(t, place, lane, block, column);
    }
    tile_barrier();
  }
}
#endif
