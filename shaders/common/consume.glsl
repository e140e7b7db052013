// What becomes of a tile's values, 16 at a time as the lanes have them: nothing (the tile is only checked), values,
// weights in f32, f16 or bf16, a product. All of it happens in registers and a little shared memory; nothing in between
// goes through a buffer. With NWC_STORAGE16 only f16 and bf16, written one by one. Expects from the variant: kTilesPerGroup, kLanesPerInvocation, lane_of(b), invocation_of_tile()
// and invocations_per_tile(), tile_barrier().
//
// Bindings 2 and 3: output and status of each tile; for products x f32 and partial results f32
// [column band][kBatch][num_rows].

#ifdef NWC_STORAGE16
layout(std430, set = 0, binding = 2) writeonly buffer Halves { uint16_t halves[]; };
const bool kProduct = false;
#else
layout(std430, set = 0, binding = 2) writeonly buffer Values { uvec4 values[]; };  // i16 [row block][column][16]
layout(std430, set = 0, binding = 2) writeonly buffer Floats { float weights[]; };
layout(std430, set = 0, binding = 2) writeonly buffer HalfPairs { uint half_pairs[]; };
layout(std430, set = 0, binding = 2) readonly buffer Vectors { float x[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };
const bool kProduct = kConsumer == kConsumeProduct;
#endif

const bool kWeights = kConsumer == kConsumeF32 || kConsumer == kConsumeF16 || kConsumer == kConsumeBf16;
const uint kPairs = kChunk / 2u;
const uint kTileWords = kPairs * kNumLanes;

// Of each tile and lane the values of a chunk, two to a word, [word][lane]; each lane reads what it wrote. Afterwards
// room to exchange halves and to add up.
shared uint chunk_words[kTilesPerGroup * kTileWords];
shared vec4 matrix[(kIdentity == 0 ? 1u : 0u) * kChunk * kChunk / 4u + 1u];  // S
shared float latent_sums[kTilesPerGroup * kChunk];

// Before anything else, by the whole workgroup; a barrier follows.
void copy_matrix() {
  if (kIdentity != 0 || !(kWeights || kProduct)) return;
  const uint at = pc.network_at + 2u * pc.num_levels;
  for (uint i = gl_LocalInvocationIndex; i < kChunk * kChunk / 4u; i += gl_WorkGroupSize.x) {
    matrix[i] = uintBitsToFloat(
        uvec4(window_data[at + 4u * i], window_data[at + 4u * i + 1u], window_data[at + 4u * i + 2u],
              window_data[at + 4u * i + 3u]));
  }
}

uint chunk_at(uint place, uint pair, uint lane) { return place * kTileWords + pair * kNumLanes + lane; }

// Channels channel - 1 and channel of a lane's chunk.
void put_pair(uint place, uint lane, uint channel, uint pair) { chunk_words[chunk_at(place, channel >> 1, lane)] = pair; }

// z of both channels of a word (doc/format.md, section 5.5).
vec2 dequantize(uint word, vec2 step_and_shrink) {
  const ivec2 k = ivec2(int(word << 16) >> 16, int(word) >> 16);
  return (vec2(k) - vec2(sign(k)) * step_and_shrink.y) * step_and_shrink.x;
}
vec2 level_step(uint column) {
  const uint at = pc.network_at + 2u * column_level(column);
  return uintBitsToFloat(uvec2(window_data[at], window_data[at + 1u]));
}

float apply_scales(float y, float scale, uint row) {
  if (scale == 0.0) return 0.0;
  if (pc.row_scale_at == kNoRowScale) return y * scale;
  const float row_scale = uintBitsToFloat(window_data[pc.row_scale_at + row]);
  return row_scale != 0.0 ? y * scale * row_scale : 0.0;
}

bool is_wanted(uint row) { return row >= pc.row_begin && row < pc.row_end; }
uint out_index(uint row, uint column) { return pc.out_at + (row - pc.row_begin) * pc.out_stride + column; }

uint to_half(float weight) {
  const uint bits = floatBitsToUint(weight);
  return kConsumer == kConsumeBf16 ? to_bf16(bits) : to_f16(bits);
}

// The weights of a lane's chunk: written, or as pairs of halves in place of the values.
void write_weights(Tile t, uint place, uint lane, uint block, uint column) {
  const vec2 step_and_shrink = level_step(t.first_column + column);
  const float scale = uintBitsToFloat(window_data[pc.scale_at + t.first_column + column]);
  const uint row0 = (t.first_block + block) * kChunk;
  vec4 z[kChunk / 4u];
  if (kIdentity == 0) {
    [[unroll]] for (uint i = 0; i < kChunk / 4u; ++i) {
      z[i] = vec4(dequantize(chunk_words[chunk_at(place, 2u * i, lane)], step_and_shrink),
                  dequantize(chunk_words[chunk_at(place, 2u * i + 1u, lane)], step_and_shrink));
    }
  }
  [[dont_unroll]] for (uint pair = 0; pair < kPairs; ++pair) {
    const uint row = row0 + 2u * pair;
    vec2 y;
    if (kIdentity != 0) {
      y = dequantize(chunk_words[chunk_at(place, pair, lane)], step_and_shrink);
    } else {
      y = vec2(0.0);
      [[unroll]] for (uint i = 0; i < kChunk / 4u; ++i) {
        y.x += dot(matrix[pair * (kChunk / 2u) + i], z[i]);
        y.y += dot(matrix[pair * (kChunk / 2u) + kChunk / 4u + i], z[i]);
      }
    }
    // Rows beyond the window's last have no scale.
    const vec2 weight = vec2(is_wanted(row) ? apply_scales(y.x, scale, row) : 0.0,
                             is_wanted(row + 1u) ? apply_scales(y.y, scale, row + 1u) : 0.0);
#ifdef NWC_STORAGE16
    if (is_wanted(row)) halves[out_index(row, t.first_column + column)] = uint16_t(to_half(weight.x));
    if (is_wanted(row + 1u)) halves[out_index(row + 1u, t.first_column + column)] = uint16_t(to_half(weight.y));
#else
    if (kConsumer == kConsumeF32) {
      if (is_wanted(row)) weights[out_index(row, t.first_column + column)] = weight.x;
      if (is_wanted(row + 1u)) weights[out_index(row + 1u, t.first_column + column)] = weight.y;
    } else {
      chunk_words[chunk_at(place, pair, lane)] = to_half(weight.x) | (to_half(weight.y) << 16);
    }
#endif
  }
}

#ifdef NWC_STORAGE16
void begin_block() {}
void end_block(Tile t, uint place, uint block) {}
void report(Tile t, uint index, uint status) { tile_status[index] = status; }

// After the 16 steps of a slot, by all invocations of the tile.
void consume_slot(Tile t, uint place, uint block, uint slot) {
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    const uint column = slot * kNumLanes + lane;
    if (lane < kNumLanes && column < t.width) write_weights(t, place, lane, block, column);
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

// Products: of the current row block, sum over this invocation's columns of x * scale * z, [kBatch][16].
float sums[kBatch * kChunk];

void begin_block() {
  if (kProduct) {
    [[unroll]] for (uint i = 0; i < kBatch * kChunk; ++i) sums[i] = 0.0;
  }
}

void add_chunk(Tile t, uint place, uint lane, uint column) {
  const float scale = uintBitsToFloat(window_data[pc.scale_at + t.first_column + column]);
  const vec2 step_and_shrink = level_step(t.first_column + column);
  float factor[kBatch];
  [[unroll]] for (uint v = 0; v < kBatch; ++v) {
    factor[v] = scale != 0.0 ? x[pc.x_at + v * pc.x_stride + t.first_column + column] * scale : 0.0;
  }
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
  if (kConsumer == kConsumeNothing) return;
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    const uint column = slot * kNumLanes + lane;
    if (lane >= kNumLanes || column >= t.width) continue;
    if (kConsumer == kConsumeValues) {
      const uint at = ((t.first_block + block) * pc.width + t.first_column + column) * (kPairs / 4u);
      for (uint i = 0; i < kPairs / 4u; ++i) {
        values[at + i] =
            uvec4(chunk_words[chunk_at(place, 4u * i, lane)], chunk_words[chunk_at(place, 4u * i + 1u, lane)],
                  chunk_words[chunk_at(place, 4u * i + 2u, lane)], chunk_words[chunk_at(place, 4u * i + 3u, lane)]);
      }
    } else if (kProduct) {
      add_chunk(t, place, lane, column);
    } else {
      write_weights(t, place, lane, block, column);
    }
  }
  if (kConsumer == kConsumeF16 || kConsumer == kConsumeBf16) {
    tile_barrier();
    for (uint b = 0; b < kLanesPerInvocation; ++b) {
      const uint lane = lane_of(b);
      const uint column = slot * kNumLanes + lane;
      if (lane < kNumLanes && column < t.width) write_half_pairs(t, place, lane, block, column);
    }
    tile_barrier();
  }
}

uint partial_at(Tile t, uint v, uint row) {
  return (t.first_column / pc.tile_cols * kBatch + v) * pc.num_rows + row;
}

// After a row block. S commutes with the sum over columns, so it is applied to the sums of all lanes.
void end_block(Tile t, uint place, uint block) {
  if (!kProduct) return;
  const uint self = invocation_of_tile();
  const uint count = min(invocations_per_tile(), kNumLanes);  // a power of two
  const uint row0 = (t.first_block + block) * kChunk;
  [[unroll]] for (uint v = 0; v < kBatch; ++v) {
    [[unroll]] for (uint part = 0; part < 2u; ++part) {
      tile_barrier();
      if (self < count) {
        [[unroll]] for (uint i = 0; i < kPairs; ++i) {
          chunk_words[chunk_at(place, i, self)] = floatBitsToUint(sums[v * kChunk + part * kPairs + i]);
        }
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
      if (row0 + i < pc.num_rows) partials[partial_at(t, v, row0 + i)] = y;
    }
  }
  tile_barrier();
}

// What a tile's decoding came to, by one invocation. A product has no room to say: it shows in every number.
void report(Tile t, uint index, uint status) {
  if (!kProduct) {
    tile_status[index] = status;
  } else if (status != kTileOk) {
    for (uint v = 0; v < kBatch; ++v) {
      for (uint row = t.first_block * kChunk; row < min((t.first_block + t.blocks) * kChunk, pc.num_rows); ++row) {
        partials[partial_at(t, v, row)] = uintBitsToFloat(0x7fc00000u);
      }
    }
  }
}
#endif
