// Both variants of the rANS kernel share these: bindings, alias lookup, the stream's words, contexts.

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSharedTables = 0;  // tables copied to shared memory; 0: read from the buffer
layout(constant_id = 2) const uint kConsumer = 1;      // kConsume...: what becomes of the values
layout(constant_id = 3) const uint kIdentity = 0;      // skip_weight is the identity matrix
layout(constant_id = 4) const uint kStaged = 0;        // the stream's words go through shared memory, loaded ahead
layout(constant_id = 5) const uint kBatch = 1;         // vectors of a product, 1 to 8

layout(std430, set = 0, binding = 0) readonly buffer Tables { uvec2 tables[]; };
layout(std430, set = 0, binding = 1) readonly buffer Window { uint window_data[]; };
layout(std430, set = 0, binding = 1) readonly buffer WindowPairs { uvec2 window_pairs[]; };
layout(push_constant) uniform Parameters { RansPush pc; };

shared uvec2 shared_tables[kSharedTables * kBuckets + 1];

void copy_tables() {
  if (kSharedTables != 0) {
    for (uint i = gl_LocalInvocationIndex; i < pc.num_used * kBuckets; i += gl_WorkGroupSize.x) {
      shared_tables[i] = tables[window_data[pc.used_at + i / kBuckets] * kBuckets + i % kBuckets];
    }
  }
}

struct Tile {
  // Renormalisation takes no word from `limit` on: with free states the number of words, else what is never reached.
  uint payload, num_words, limit, first_column, width, first_block, blocks, lanes, slots;
};

Tile load_tile(uint index) {
  const uint at = pc.tile_at + index * kTileRecordWords;
  Tile t;
  t.payload = window_data[at];
  const uint words = window_data[at + 1];
  t.num_words = words & ~kFreeStates;
  t.limit = (words & kFreeStates) != 0u ? t.num_words : 0xffffffffu;
  t.first_column = window_data[at + 2];
  t.width = window_data[at + 3];
  t.first_block = window_data[at + 4];
  t.blocks = window_data[at + 5];
  t.lanes = min(t.width, kNumLanes);
  t.slots = (t.width + kNumLanes - 1) / kNumLanes;
  return t;
}

// Whether a tile can begin with this state. One without words and with free states can begin with any.
bool is_begun(Tile t, uint state) { return state >= kRansLow || t.limit == 0u; }

uint num_banks() { return pc.trellis != 0 ? 2u : 1u; }

uint column_level(uint column) {
  return (window_data[pc.level_at + (column >> 2)] >> ((column & 3u) * 8u)) & 255u;
}

// Index in window_pairs of the 16 contexts of the level of a column (within the window).
uint column_contexts(uint column) { return pc.context_at + column_level(column) * kChunk * num_banks(); }

// The contexts' second index in the 16 steps of a row block, a byte each.
uvec4 second_indices(Tile t, uint block) {
  if (pc.row_class_at == kNoRowClass) return uvec4(0x03020100u, 0x07060504u, 0x0b0a0908u, 0x0f0e0d0cu);
  const uint at = pc.row_class_at + (t.first_block + block) * (kChunk / 4u);
  return uvec4(window_data[at], window_data[at + 1u], window_data[at + 2u], window_data[at + 3u]) & 0x0f0f0f0fu;
}

// Byte i of 16. Choices instead of an index, which could send the vector to memory.
uint get_byte(uvec4 bytes, uint i) {
  const uint word = (i & 8u) == 0 ? ((i & 4u) == 0 ? bytes.x : bytes.y) : ((i & 4u) == 0 ? bytes.z : bytes.w);
  return (word >> ((i & 3u) * 8u)) & 255u;
}
void set_byte(inout uvec4 bytes, uint i, uint value) {
  const uint shift = (i & 3u) * 8u;
  const uvec4 set = (bytes & ~(255u << shift)) | (value << shift);
  bytes = mix(bytes, set, equal(uvec4(i >> 2), uvec4(0u, 1u, 2u, 3u)));
}

// The trellis states of an invocation's columns, by slot: 16 bits each, the lower halves and the upper ones.
struct Paths {
  uvec4 low, high;
};
uint get_path(Paths paths, uint slot) { return get_byte(paths.low, slot) | (get_byte(paths.high, slot) << 8); }
void set_path(inout Paths paths, uint slot, uint path) {
  set_byte(paths.low, slot, path & 255u);
  set_byte(paths.high, slot, path >> 8);
}

// A step's context: first bucket of the table, info word.
uvec2 step_context(uint contexts, uint second, uint path) {
  return window_pairs[contexts + second * num_banks() + (path & 1u)];  // without a trellis every state stays 0
}

// The stream of a tile, two 16-bit words to a u32. Staged, the u32 [staged - kRing, staged) lie in a ring in shared
// memory, and each lane holds the one that comes next in its turn, so that memory's latency is hidden behind the steps
// that use up the ring. It is refilled before every kStepsPerRefill steps, which then have no branch for it; without a
// ring there is nothing to gain from that.
const uint kStepsPerRefill = kStaged != 0 ? 4 : 1;
const uint kRing = 256;
const uint kWordsPerStep = 96;  // that one step can use: 32 lanes renormalise twice and escape
shared uint ring[kStaged * kTilesPerGroup * kRing + 1];

bool is_short(uint next, uint staged) { return (next >> 1) + kStepsPerRefill * kWordsPerStep / 2u >= staged; }

uint load_stream(Tile t, uint i) {
  return 2u * i < t.num_words ? window_data[t.payload + t.lanes + i] : 0u;
}

// Words beyond the payload read as 0; that they were asked for shows in the final count.
uint read_word(Tile t, uint place, uint index) {
  if (kStaged != 0) return (ring[place * kRing + ((index >> 1) & (kRing - 1u))] >> ((index & 1u) * 16u)) & 0xffffu;
  if (index >= t.num_words) return 0u;
  return (window_data[t.payload + t.lanes + (index >> 1)] >> ((index & 1u) * 16u)) & 0xffffu;
}

// Pass 1 before renormalisation: advances the state, returns the symbol.
uint decode_symbol(inout uint state, uint first_bucket) {
  const uint at = first_bucket + ((state >> kBucketSlotsLog2) & (kBuckets - 1u));
  uvec2 bucket;
  if (kSharedTables != 0) {
    bucket = shared_tables[at];
  } else {
    bucket = tables[at];
  }
  const uint position = state & ((1u << kBucketSlotsLog2) - 1u);
  const bool own = position < ((bucket.x >> 12) & 63u);
  const uint freq = (mix(bucket.y, bucket.x, own) & 0xfffu) + 1u;
  const uint rank = mix((position + (bucket.y >> 12)) & 0xfffu, position, own);
  const uint symbol = mix((bucket.x >> 18) & 127u, (state >> kBucketSlotsLog2) & (kBuckets - 1u), own);
  state = freq * (state >> kProbBits) + rank;
  return symbol;
}

uint info_raw_bits(uint info) { return (info >> 16) & 15u; }
bool is_escape(uint info, uint symbol) { return symbol == (info >> 24); }

// The 16 bits of ((symbol + min) << raw_bits) + raw.
uint symbol_value(uint info, uint symbol, uint raw) {
  const int low = int(info << 16) >> 16;
  return uint(((int(symbol) + low) << info_raw_bits(info)) + int(raw)) & 0xffffu;
}

// The 16 bits of the reconstruction index of value k (doc/format.md, section 5.6); the column's state moves on.
uint pass_trellis(inout uint path, uint k) {
  if (pc.trellis == 0) return k;
  const int value = int(k << 16) >> 16;
  const uint index = uint(2 * value - int(path & 1u) * sign(value)) & 0xffffu;
  path = (path >> 1) ^ ((path & 1u) * (pc.trellis & 0xffffu)) ^ ((k & 1u) * (pc.trellis >> 16));
  return index;
}
