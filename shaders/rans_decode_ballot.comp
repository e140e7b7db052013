#version 450
// Interleaved rANS decoding; must match decode_tile (runtime/codec/tile_decode.h) bit for bit.
// One subgroup decodes one tile: with S < 32 invocations each one owns the lanes i, i + S, ...; with S > 32 the first 32
// work. Words are dealt out in order of lanes by counting the bits of ballots.
// Bindings: 0 alias tables, 1 window input, 2 values (two i16 a word, [row block][column][16]), 3 status of each tile.
// Workgroup: S times the number of tiles it decodes. Reads of the stream are bounds-checked.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#include "common/constants.glsl"
#include "common/rans.glsl"

layout(constant_id = 2) const uint kSubgroupSize = 32;
layout(constant_id = 3) const uint kLanesPerInvocation = 1;  // max(1, 32 / S)

// The index of this invocation's word, and `next` moved on by the words that the subgroup takes.
uint deal_words(bool need, inout uint next) {
  const uint mask = subgroupBallot(need).x;
  const uint index = next + bitCount(mask & ((1u << (gl_SubgroupInvocationID & 31u)) - 1u));
  next += bitCount(mask);
  return index;
}

void main() {
  copy_tables();
  const uint index = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID;
  // A subgroup of another size than the host assumed would corrupt values silently.
  const uvec4 everyone = subgroupBallot(true);
  const uint present = bitCount(everyone.x) + bitCount(everyone.y) + bitCount(everyone.z) + bitCount(everyone.w);
  if (gl_SubgroupSize != kSubgroupSize || present != kSubgroupSize) {
    if (gl_LocalInvocationIndex == 0 && gl_WorkGroupID.x < pc.num_tiles) {
      tile_status[gl_WorkGroupID.x] = kTileSubgroupSize;
    }
    return;
  }
  if (index >= pc.num_tiles) return;

  const Tile t = load_tile(index);
  uint state[kLanesPerInvocation];
  bool bad = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) {
    const uint lane = b * kSubgroupSize + gl_SubgroupInvocationID;
    state[b] = lane < t.lanes ? window_data[t.payload + lane] : kRansLow;
    bad = bad || state[b] < kRansLow;
  }
  if (subgroupBallot(bad).x != 0u) {
    if (gl_SubgroupInvocationID == 0) tile_status[index] = kTileCorrupt;
    return;
  }

  uint next = 0;
  uint symbol[kLanesPerInvocation];
  uint info[kLanesPerInvocation];
  uint pair[kLanesPerInvocation];
  uint contexts[kLanesPerInvocation];
  uint value[kLanesPerInvocation];
  uint path[kLanesPerInvocation];  // state of the column's trellis
  uvec4 paths[kLanesPerInvocation];
  for (uint b = 0; b < kLanesPerInvocation; ++b) paths[b] = uvec4(0);
  for (uint block = 0; block < t.blocks; ++block) {
    const uvec4 seconds = second_indices(t, block);
    for (uint slot = 0; slot < t.slots; ++slot) {
      for (uint b = 0; b < kLanesPerInvocation; ++b) {
        const uint lane = b * kSubgroupSize + gl_SubgroupInvocationID;
        const uint column = slot * kNumLanes + lane;
        const bool takes_part = lane < kNumLanes && column < t.width;
        contexts[b] = takes_part ? column_contexts(t.first_column + column) : 0xffffffffu;
        path[b] = get_byte(paths[b], slot);
      }
      for (uint channel = 0; channel < kChunk; ++channel) {
        const uint second = get_byte(seconds, channel);
        bool any_escape = false;
        for (uint b = 0; b < kLanesPerInvocation; ++b) {
          bool need = false;
          info[b] = 0;
          symbol[b] = 1;
          if (contexts[b] != 0xffffffffu) {
            const uint context = step_context(contexts[b], second, path[b]);
            info[b] = window_data[context + 1u];
            symbol[b] = decode_symbol(state[b], window_data[context]);
            value[b] = symbol_value(info[b], symbol[b], 0u);
            any_escape = any_escape || is_escape(info[b], symbol[b]);
            need = state[b] < kRansLow;
          }
          const uint word = deal_words(need, next);
          if (need) state[b] = (state[b] << 16) | read_word(t, word);
        }
        if (pc.any_raw_bits != 0) {
          for (uint b = 0; b < kLanesPerInvocation; ++b) {
            bool need = false;
            const uint raw_bits = info_raw_bits(info[b]);
            if (contexts[b] != 0xffffffffu && raw_bits != 0 && !is_escape(info[b], symbol[b])) {
              value[b] = symbol_value(info[b], symbol[b], state[b] & ((1u << raw_bits) - 1u));
              state[b] >>= raw_bits;
              need = state[b] < kRansLow;
            }
            const uint word = deal_words(need, next);
            if (need) state[b] = (state[b] << 16) | read_word(t, word);
          }
        }
        if (subgroupBallot(any_escape).x != 0u) {
          for (uint b = 0; b < kLanesPerInvocation; ++b) {
            const bool need = contexts[b] != 0xffffffffu && is_escape(info[b], symbol[b]);
            const uint word = deal_words(need, next);
            if (need) value[b] = read_word(t, word);
          }
        }
        for (uint b = 0; b < kLanesPerInvocation; ++b) {
          value[b] = pass_trellis(path[b], value[b]);
          if ((channel & 1u) == 0) {
            pair[b] = value[b];
          } else if (contexts[b] != 0xffffffffu) {
            const uint column = slot * kNumLanes + b * kSubgroupSize + gl_SubgroupInvocationID;
            store_pair(t, block, column, channel, pair[b] | (value[b] << 16));
          }
        }
      }
      for (uint b = 0; b < kLanesPerInvocation; ++b) set_byte(paths[b], slot, path[b]);
    }
  }

  bool unfinished = false;
  for (uint b = 0; b < kLanesPerInvocation; ++b) unfinished = unfinished || state[b] != kRansLow;
  const bool any_unfinished = subgroupBallot(unfinished).x != 0u;
  if (gl_SubgroupInvocationID == 0) {
    tile_status[index] = next > t.num_words                        ? kTileTruncated
                         : (next < t.num_words || any_unfinished) ? kTileChecksum
                                                                   : kTileOk;
  }
}
