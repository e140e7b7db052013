// Interleaved rANS decoding without any subgroup feature; must match decode_tile (runtime/codec/tile_decode.h) bit for bit.
// One workgroup of 32 invocations decodes one tile, one lane each. Words are dealt out in order of lanes by counting the
// bits of masks in shared memory.
// Bindings: 0 alias tables, 1 window input, 2 and 3 the consumer's (consume_weights.glsl, consume_product.glsl).
// Workgroup: 32. Reads of the stream are bounds-checked.
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

const uint kTilesPerGroup = 1;
const uint kLanesPerInvocation = 1;

#include "half.glsl"
#include "push_constants.h"
#include "rans.glsl"

uint lane_of(uint b) { return gl_LocalInvocationIndex; }
uint invocation_of_tile() { return gl_LocalInvocationIndex; }
uint invocations_per_tile() { return kNumLanes; }
void tile_barrier() { barrier(); }

#ifdef NWC_PRODUCT
#include "consume_product.glsl"
#else
#include "consume_weights.glsl"
#endif

// Three masks in turn: while one fills, the one before is still being read and the one after is cleared. So a pass costs
// one barrier.
shared uint need_mask[3];
shared uint escape_mask[3];

uint phase = 0;

// Collects the lanes that need a word and those that met an escape; returns both masks.
uvec2 collect(uint lane, bool need, bool escape) {
  if (need) atomicOr(need_mask[phase], 1u << lane);
  if (escape) atomicOr(escape_mask[phase], 1u << lane);
  barrier();
  const uvec2 masks = uvec2(need_mask[phase], escape_mask[phase]);
  const uint previous = phase == 0 ? 2u : phase - 1u;
  if (lane == 0) {
    need_mask[previous] = 0;
    escape_mask[previous] = 0;
  }
  phase = phase == 2 ? 0u : phase + 1u;
  return masks;
}

uint word_index(uint mask, uint lane, uint next) { return next + bitCount(mask & ((1u << lane) - 1u)); }

// Renormalisation takes no word from the limit on.
uint take_word(Tile t, uint place, uint state, uint index) {
  return index < t.limit ? (state << 16) | read_word(t, place, index) : state;
}
uint after_words(Tile t, uint mask, uint next) { return max(next, min(next + bitCount(mask), t.limit)); }

void main() {
  const uint lane = gl_LocalInvocationIndex;
  const uint index = gl_WorkGroupID.x;
  const uint place = 0;
  if (lane < 3) {
    need_mask[lane] = 0;
    escape_mask[lane] = 0;
  }
  copy_tables();
  copy_matrix();
  barrier();

  const Tile t = load_tile(index);
  uint state = lane < t.lanes ? window_data[t.payload + lane] : kRansLow;
  const uvec2 bad = collect(lane, lane < t.lanes && !is_begun(t, state), false);
  if (bad.x != 0u) {
    if (lane == 0) report(t, index, kTileCorrupt);
    return;
  }

  uint next = 0;
  uint staged = 0;
  uint ahead = 0;  // the stream's u32 number staged + lane
  if (kStaged != 0) {
    for (uint i = lane; i < kRing; i += kNumLanes) ring[i] = load_stream(t, i);
    ahead = load_stream(t, kRing + lane);
    staged = kRing;
    barrier();
  }
  uint pair = 0;
  Paths paths = Paths(uvec4(0), uvec4(0));  // states of the columns' trellises
  [[dont_unroll]] for (uint block = 0; block < t.blocks; ++block) {
    const uvec4 seconds = second_indices(t, block);
    begin_block(t, place, block);
    [[dont_unroll]] for (uint slot = 0; slot < t.slots; ++slot) {
      const uint column = slot * kNumLanes + lane;
      const bool takes_part = column < t.width;
      const uint contexts = takes_part ? column_contexts(t.first_column + column) : 0u;
      uint path = get_path(paths, slot);
      if (takes_part) begin_slot(t, column);
      [[dont_unroll]] for (uint channel = 0; channel < kChunk; ++channel) {
        if (kStaged != 0) {
          [[dont_unroll]] while ((next >> 1) + kRing - kNumLanes >= staged) {
            barrier();
            ring[(staged + lane) & (kRing - 1u)] = ahead;
            ahead = load_stream(t, staged + kNumLanes + lane);
            staged += kNumLanes;
            barrier();
          }
        }
        uint info = 0;
        uint symbol = 0;
        uint value = 0;
        bool escape = false;
        if (takes_part) {
          const uvec2 context = step_context(contexts, get_byte(seconds, channel), path);
          info = context.y;
          symbol = decode_symbol(state, context.x);
          value = symbol_value(info, symbol, 0u);
          escape = is_escape(info, symbol);
        }
        const uvec2 masks = collect(lane, state < kRansLow, escape);
        if (state < kRansLow) state = take_word(t, place, state, word_index(masks.x, lane, next));
        next = after_words(t, masks.x, next);
        if (pc.any_raw_bits != 0) {
          const uint raw_bits = info_raw_bits(info);
          if (takes_part && raw_bits != 0 && !escape) {
            value = symbol_value(info, symbol, state & ((1u << raw_bits) - 1u));
            state >>= raw_bits;
          }
          const uint mask = collect(lane, state < kRansLow, false).x;
          if (state < kRansLow) state = take_word(t, place, state, word_index(mask, lane, next));
          next = after_words(t, mask, next);
        }
        if (escape) value = read_word(t, place, word_index(masks.y, lane, next));
        next += bitCount(masks.y);
        value = pass_trellis(path, value);
        if ((channel & 1u) == 0) {
          pair = value;
        } else if (takes_part) {
          put_pair(place, lane, channel, pair | (value << 16));
        }
      }
      set_path(paths, slot, path);
      consume_slot(t, place, block, slot);
    }
    end_block(t, place, block);
  }

  const uint unfinished = collect(lane, state != kRansLow && t.limit != t.num_words, false).x;
  if (lane == 0) {
    report(t, index,
           next > t.num_words                          ? kTileTruncated
           : (next < t.num_words || unfinished != 0u) ? kTileChecksum
                                                       : kTileOk);
  }
}
