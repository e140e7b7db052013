// Interleaved rANS decoding; must match decode_tile (runtime/codec/tile_decode.h) bit for bit.
// One subgroup decodes one tile: with S < 32 invocations each one owns the lanes i, i + S, ...; with S > 32 the first 32
// work. Words are dealt out in order of lanes by counting the bits of ballots.
// Bindings: 0 alias tables, 1 window input, 2 and 3 the consumer's (consume_weights.glsl, consume_product.glsl).
// Workgroup: S times kTilesPerGroup. Reads of the stream are bounds-checked.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 6) const uint kTilesPerGroup = 1;
layout(constant_id = 7) const uint kSubgroupSize = 32;
layout(constant_id = 8) const uint kLanesPerInvocation = 1;  // max(1, 32 / S)

#include "half.glsl"
#include "push_constants.h"
#include "rans.glsl"

uint lane_of(uint b) { return b * kSubgroupSize + gl_SubgroupInvocationID; }
uint invocation_of_tile() { return gl_SubgroupInvocationID; }
uint invocations_per_tile() { return kSubgroupSize; }
void tile_barrier() { subgroupBarrier(); }

#ifdef NWC_PRODUCT
#include "consume_product.glsl"
#else
#include "consume_weights.glsl"
#endif

// The index of this invocation's word, and `next` moved on by the words that the subgroup takes.
uint deal_words(bool need, inout uint next) {
  const uint mask = subgroupBallot(need).x;
  const uint index = next + bitCount(mask & ((1u << (gl_SubgroupInvocationID & 31u)) - 1u));
  next += bitCount(mask);
  return index;
}

void main() {
  copy_tables();
  copy_matrix();
  barrier();
  const uint place = gl_SubgroupID;  // of the tile among those of the workgroup
  const uint index = gl_WorkGroupID.x * gl_NumSubgroups + place;
  // A subgroup of another size than the host assumed would corrupt values silently.
  const uvec4 everyone = subgroupBallot(true);
  const uint present = bitCount(everyone.x) + bitCount(everyone.y) + bitCount(everyone.z) + bitCount(everyone.w);
  if (gl_SubgroupSize != kSubgroupSize || present != kSubgroupSize || gl_NumSubgroups != kTilesPerGroup) {
    if (gl_LocalInvocationIndex == 0 && gl_WorkGroupID.x < pc.num_tiles) {
      report(load_tile(gl_WorkGroupID.x), gl_WorkGroupID.x, kTileSubgroupSize);
    }
    return;
  }
  if (index >= pc.num_tiles) return;

  const Tile t = load_tile(index);
  uint state[kLanesPerInvocation];
  bool bad = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = lane_of(b);
    state[b] = lane < t.lanes ? window_data[t.payload + lane] : kRansLow;
    bad = bad || state[b] < kRansLow;
  }
  if (subgroupBallot(bad).x != 0u) {
    if (gl_SubgroupInvocationID == 0) report(t, index, kTileCorrupt);
    return;
  }

  uint next = 0;
  uint staged = 0;
  uint ahead[kLanesPerInvocation];  // the stream's u32 number staged + lane
  if (kStaged != 0) {
    for (uint b = 0; b < kLanesPerInvocation; ++b) {
      const uint lane = lane_of(b);
      if (lane >= kNumLanes) continue;
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
  uvec4 paths[kLanesPerInvocation];
  for (uint b = 0; b < kLanesPerInvocation; ++b) paths[b] = uvec4(0);
  [[dont_unroll]] for (uint block = 0; block < t.blocks; ++block) {
    const uvec4 seconds = second_indices(t, block);
    begin_block(t, place, block);
    [[dont_unroll]] for (uint slot = 0; slot < t.slots; ++slot) {
      for (uint b = 0; b < kLanesPerInvocation; ++b) {
        const uint lane = lane_of(b);
        const uint column = slot * kNumLanes + lane;
        takes_part[b] = lane < kNumLanes && column < t.width;
        contexts[b] = column_contexts(t.first_column + (takes_part[b] ? column : 0u));
        path[b] = get_byte(paths[b], slot);
        if (takes_part[b]) begin_slot(t, column);
      }
      [[dont_unroll]] for (uint first = 0; first < kChunk; first += kStepsPerRefill) {
        if (kStaged != 0) {
          [[dont_unroll]] while ((next >> 1) + kStepsPerRefill * kWordsPerStep / 2u >= staged) {
            tile_barrier();
            for (uint b = 0; b < kLanesPerInvocation; ++b) {
              const uint lane = lane_of(b);
              if (lane >= kNumLanes) continue;
              ring[place * kRing + ((staged + lane) & (kRing - 1u))] = ahead[b];
              ahead[b] = load_stream(t, staged + kNumLanes + lane);
            }
            staged += kNumLanes;
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
            const bool need = takes_part[b] && moved < kRansLow;
            const uint word = read_word(t, place, deal_words(need, next));
            state[b] = mix(mix(state[b], moved, takes_part[b]), (moved << 16) | word, need);
          }
          if (pc.any_raw_bits != 0) {
            for (uint b = 0; b < kLanesPerInvocation; ++b) {
              const bool has = takes_part[b] && !is_escape(info[b], symbol[b]);
              const uint raw_bits = mix(0u, info_raw_bits(info[b]), has);
              raw[b] = state[b] & ((1u << raw_bits) - 1u);
              const uint moved = state[b] >> raw_bits;
              const bool need = takes_part[b] && moved < kRansLow;
              const uint word = read_word(t, place, deal_words(need, next));
              state[b] = mix(moved, (moved << 16) | word, need);
            }
          }
          const bool escapes = subgroupBallot(any_escape).x != 0u;
          for (uint b = 0; b < kLanesPerInvocation; ++b) {
            uint value = symbol_value(info[b], symbol[b], raw[b]);
            if (escapes) {
              const bool need = takes_part[b] && is_escape(info[b], symbol[b]);
              const uint word = read_word(t, place, deal_words(need, next));
              value = mix(value, word, need);
            }
            value = pass_trellis(path[b], value);
            if ((channel & 1u) == 0) {
              pair[b] = value;
            } else if (kSubgroupSize <= kNumLanes || lane_of(b) < kNumLanes) {
              put_pair(place, lane_of(b), channel, pair[b] | (value << 16));
            }
          }
        }
      }
      for (uint b = 0; b < kLanesPerInvocation; ++b) set_byte(paths[b], slot, path[b]);
      consume_slot(t, place, block, slot);
    }
    end_block(t, place, block);
  }

  bool unfinished = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) unfinished = unfinished || state[b] != kRansLow;
  const bool any_unfinished = subgroupBallot(unfinished).x != 0u;
  if (gl_SubgroupInvocationID == 0) {
    report(t, index,
           next > t.num_words                        ? kTileTruncated
           : (next < t.num_words || any_unfinished) ? kTileChecksum
                                                     : kTileOk);
  }
}
