// All consumers of the rANS kernels share these: the lanes' chunks, dequantization, the skip weights. The variant defines
// kTilesPerGroup, kLanesPerInvocation, lane_of(b), invocation_of_tile() and invocations_per_tile(), tile_barrier().

const uint kPairs = kChunk / 2u;
const uint kTileWords = kPairs * kNumLanes;

// The values of a chunk for each tile and lane, two to a word, [word][lane]. Each lane reads what it wrote. Afterwards
// halves are exchanged and sums added up here.
shared uint chunk_words[kTilesPerGroup * kTileWords];
shared vec4 matrix[(kIdentity == 0 ? 1u : 0u) * kChunk * kChunk / 4u + 1u];  // skip_weight

// Before anything else, by the whole workgroup; a barrier follows.
void copy_matrix() {
  if (kIdentity != 0 || kConsumer == kConsumeNothing || kConsumer == kConsumeValues) return;
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

// Whether what a slot's columns need beside the values is loaded before these are decoded, which gives the device the time
// to fetch it. Invocations with several lanes would have to keep it in arrays, which drivers put into memory.
const bool kLoadAhead = kLanesPerInvocation == 1;

bool is_wanted(uint row) { return row >= pc.row_begin && row < pc.row_end; }
