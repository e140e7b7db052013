// Interleaved rANS decoding; must match decode_tile (runtime/codec/tile_decode.h) bit for bit.
// One subgroup decodes one tile: with S < 32 invocations each one owns the lanes i, i + S, ... With S = 64 or 128 every 32
// invocations have a tile of their own, and go through the larger one's loops together, so that ballots are the whole
// subgroup's. Words are dealt out in order of lanes by counting the bits of ballots.
// Bindings: 0 alias tables, 1 window input, 2 and 3 the consumer's (consume_weights.glsl, consume_product.glsl).
// Workgroup: S for every kTogether of its tiles. Reads of the stream are bounds-checked.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 6) const uint kTilesPerGroup = 1;
layout(constant_id = 7) const uint kSubgroupSize = 32;
layout(constant_id = 8) const uint kLanesPerInvocation = 1;  // max(1, 32 / S)

#ifdef NWC_EMULATED_SUBGROUP
#include "emulated_subgroup.glsl"
#endif
#include "half.glsl"
#include "push_constants.h"
#include "rans.glsl"

const uint kTogether = kSubgroupSize > kNumLanes ? kSubgroupSize / kNumLanes : 1u;  // tiles of a subgroup
const uint kInvocations = kSubgroupSize / kTogether;                               // of a tile
// With one tile a subgroup, what follows from its number has to be seen to be the same for all invocations.
uint tile_of_subgroup() { return kTogether == 1u ? 0u : gl_SubgroupInvocationID / kInvocations; }
uint invocation_of_tile() {
  return kTogether == 1u ? gl_SubgroupInvocationID : gl_SubgroupInvocationID % kInvocations;
}
uint invocations_per_tile() { return kInvocations; }
uint lane_of(uint b) { return b * kInvocations + invocation_of_tile(); }
void tile_barrier() { subgroupBarrier(); }

#ifdef NWC_PRODUCT
#include "consume_product.glsl"
#else
#include "consume_weights.glsl"
#endif

// The ballot of the tile's invocations.
uint tile_ballot(bool value) {
  const uvec4 all = subgroupBallot(value);
  if (kTogether == 1u) return all.x;
  const uint tile = tile_of_subgroup();
  return (tile & 2u) == 0u ? ((tile & 1u) == 0u ? all.x : all.y) : ((tile & 1u) == 0u ? all.z : all.w);
}
bool any_of_subgroup(bool value) {
  const uvec4 all = subgroupBallot(value);
  return kTogether == 1u ? all.x != 0u : all != uvec4(0u);
}
// Whether a loop goes on that this tile would go through; all tiles of a subgroup do so together.
bool goes_on(bool wanted) { return kTogether == 1u ? wanted : any_of_subgroup(wanted); }

// The index of this invocation's word, and `next` moved on by the words that the tile takes, none from `limit` on: what
// would get one of those gets none.
uint deal_words(inout bool need, uint limit, inout uint next) {
  const uint mask = tile_ballot(need);
  const uint index = next + bitCount(mask & ((1u << (gl_SubgroupInvocationID & 31u)) - 1u));
  need = need && index < limit;
  next = max(next, min(next + bitCount(mask), limit));
  return index;
}

void main() {
  copy_tables();
  copy_matrix();
  barrier();
  const uint place = gl_SubgroupID * kTogether + tile_of_subgroup();  // of the tile among those of the workgroup
  const uint index = gl_WorkGroupID.x * kTilesPerGroup + place;
  // A subgroup of another size than the host assumed would corrupt values silently.
  const uvec4 everyone = subgroupBallot(true);
  const uint present = bitCount(everyone.x) + bitCount(everyone.y) + bitCount(everyone.z) + bitCount(everyone.w);
  if (gl_SubgroupSize != kSubgroupSize || present != kSubgroupSize || gl_NumSubgroups * kTogether != kTilesPerGroup) {
    if (gl_LocalInvocationIndex == 0 && gl_WorkGroupID.x < pc.num_tiles) {
      report(load_tile(gl_WorkGroupID.x), gl_WorkGroupID.x, kTileSubgroupSize);
    }
    return;
  }
  const bool is_tile = index < pc.num_tiles;
  if (!goes_on(is_tile)) return;

  const Tile t = load_tile(kTogether == 1u ? index : min(index, pc.num_tiles - 1u));
  uint state[kLanesPerInvocation];
  bool bad = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    state[b] = lane < t.lanes ? window_data[t.payload + lane] : kRansLow;
    bad = bad || (lane < t.lanes && !is_begun(t, state[b]));
  }
  const bool corrupt = tile_ballot(bad) != 0u;
  if (corrupt && is_tile && invocation_of_tile() == 0) report(t, index, kTileCorrupt);
  if (kTogether == 1u && corrupt) return;
  const uint blocks = kTogether == 1u || (is_tile && !corrupt) ? t.blocks : 0u;
  if (!goes_on(blocks != 0u)) return;

  uint next = 0;
  uint staged = 0;
  uint ahead[kLanesPerInvocation];  // the stream's u32 number staged + lane
  if (kStaged != 0) {
    for (uint b = 0; b < kLanesPerInvocation; ++b) {
      const uint lane = lane_of(b);
      for (uint i = lane; i < kRing; i += kNumLanes) ring[place * kRing + i] = load_stream(t, i);
      ahead[b] = load_stream(t, kRing + lane);
    }
    staged = kRing;
    tile_barrier();
  }
  uint contexts[kLanesPerInvocation];
  bool takes_part[kLanesPerInvocation];
  uint info[kLanesPerInvocation];
  uint symbol[kLanesPerInvocation];
  uint raw[kLanesPerInvocation];
  uint pair[kLanesPerInvocation];
  uint path[kLanesPerInvocation];  // state of the column's trellis
  Paths paths[kLanesPerInvocation];
  for (uint b = 0; b < kLanesPerInvocation; ++b) paths[b] = Paths(uvec4(0), uvec4(0));
  [[dont_unroll]] for (uint block = 0; goes_on(block < blocks); ++block) {
    Tile part = t;  // nothing, of a tile that has fewer row blocks than another of the subgroup
    if (kTogether != 1u && block >= blocks) part.width = part.slots = 0u;
    const uvec4 seconds = second_indices(t, kTogether == 1u ? block : min(block, t.blocks - 1u));
    begin_block(part, place, block);
    [[dont_unroll]] for (uint slot = 0; goes_on(slot < part.slots); ++slot) {
      for (uint b = 0; b < kLanesPerInvocation; ++b) {
        const uint lane = lane_of(b);
        const uint column = slot * kNumLanes + lane;
        takes_part[b] = column < part.width;
        contexts[b] = column_contexts(t.first_column + (takes_part[b] ? column : 0u));
        path[b] = get_path(paths[b], slot);
        if (takes_part[b]) begin_slot(t, column);
      }
      [[dont_unroll]] for (uint first = 0; first < kChunk; first += kStepsPerRefill) {
        if (kStaged != 0) {
          [[dont_unroll]] while (goes_on(is_short(next, staged))) {
            const bool refill = kTogether == 1u || is_short(next, staged);
            tile_barrier();
            for (uint b = 0; b < kLanesPerInvocation; ++b) {
              const uint lane = lane_of(b);
              if (!refill) continue;
              ring[place * kRing + ((staged + lane) & (kRing - 1u))] = ahead[b];
              ahead[b] = load_stream(t, staged + kNumLanes + lane);
            }
            if (refill) staged += kNumLanes;
            tile_barrier();
          }
        }
        // Invocations without a column do the same and keep their state: without branches a step's parts overlap.
        [[unroll]] for (uint step = 0; step < kStepsPerRefill; ++step) {
          const uint channel = first + step;
          const uint second = get_byte(seconds, channel);
          bool any_escape = false;
          for (uint b = 0; b < kLanesPerInvocation; ++b) {
            const uvec2 context = step_context(contexts[b], second, path[b]);
            uint moved = state[b];
            info[b] = context.y;
            symbol[b] = decode_symbol(moved, context.x);
            raw[b] = 0;
            any_escape = any_escape || (takes_part[b] && is_escape(info[b], symbol[b]));
            bool need = takes_part[b] && moved < kRansLow;
            const uint word = read_word(t, place, deal_words(need, t.limit, next));
            state[b] = mix(mix(state[b], moved, takes_part[b]), (moved << 16) | word, need);
          }
          if (pc.any_raw_bits != 0) {
            for (uint b = 0; b < kLanesPerInvocation; ++b) {
              const bool has = takes_part[b] && !is_escape(info[b], symbol[b]);
              const uint raw_bits = mix(0u, info_raw_bits(info[b]), has);
              raw[b] = state[b] & ((1u << raw_bits) - 1u);
              const uint moved = state[b] >> raw_bits;
              bool need = takes_part[b] && moved < kRansLow;
              const uint word = read_word(t, place, deal_words(need, t.limit, next));
              state[b] = mix(moved, (moved << 16) | word, need);
            }
          }
          const bool escapes = any_of_subgroup(any_escape);
          for (uint b = 0; b < kLanesPerInvocation; ++b) {
            uint value = symbol_value(info[b], symbol[b], raw[b]);
            if (escapes) {
              bool need = takes_part[b] && is_escape(info[b], symbol[b]);
              const uint word = read_word(t, place, deal_words(need, 0xffffffffu, next));
              value = mix(value, word, need);
            }
            value = pass_trellis(path[b], value);
            if ((channel & 1u) == 0) {
              pair[b] = value;
            } else {
              put_pair(place, lane_of(b), channel, pair[b] | (value << 16));
            }
          }
        }
      }
      for (uint b = 0; b < kLanesPerInvocation; ++b) set_path(paths[b], slot, path[b]);
      consume_slot(part, place, block, slot);
    }
    end_block(part, place, block);
  }

  bool unfinished = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) unfinished = unfinished || (state[b] != kRansLow && t.limit != t.num_words);
  const bool any_unfinished = tile_ballot(unfinished) != 0u;
  if (invocation_of_tile() == 0 && (kTogether == 1u || blocks != 0u)) {
    report(t, index,
           next > t.num_words                        ? kTileTruncated
           : (next < t.num_words || any_unfinished) ? kTileChecksum
                                                     : kTileOk);
  }
}
