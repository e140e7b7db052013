// Body of the x86 twins of decode_group_scalar, instantiated once per instruction set by tile_decode_{avx2,avx512}.cpp.
// Everything here is a template of the vector type `V`, which lives in an anonymous namespace: no symbol is shared
// between files that are compiled with different flags.
//
// States are split into a low and a high half, 16 bits each, so that everything, from the look-up to the words of the
// payload, is lanes of 16 bits: `Half` registers, kHalves of which hold the 32 lanes of a tile. A product of a
// frequency (13 bits) and a state without its slot (20 bits) then takes three multiplications of 16 bits, and in return
// nothing is ever widened or narrowed. What is looked up has 64 bits a lane (DecodeTables::packed); every lane loads
// its own, for gather instructions are slow where they work around gather data sampling, and tables are too many for
// registers. Functions of V:
//   load(p), choose(first, second, odd)   a Half from uint8_t, uint16_t or int16_t; from `second` in the odd lanes
//   load_entries(packed, low, table, e)   the entries of the states' buckets, field by field: of DecodeTables::packed
//   not_below(a, b), select(mask, a, b)   a >= b (both below 2^15) as a mask; a where the mask is set, else b
//   multiply(freq, low, high, rank)       the new state, in place: freq * (state >> 12) + rank
//   take_raw                              the lowest bits of the states, which lose them
//   renormalise                           states below 2^16: state << 16 | next word, in order of lanes
//   escapes, any, take_escapes            which lanes are escaped; their values are the next words
//   pass_trellis                          section 5.6: reconstruction indices; the columns' states move on
#pragma once

#include "runtime/codec/lane_kernels.h"

namespace nwc {

/// Registers of one tile.
template <typename V>
struct TileRegisters {
  typename V::Half low[V::kHalves], high[V::kHalves];  ///< of the states
  typename V::Half trellis[V::kHalves];                ///< state of each column's trellis
  const uint8_t* next;
  const uint8_t* context;
};

/// A look-up, field by field.
template <typename V>
struct Entries {
  typename V::Half own_freq, alias_freq, alias_rank, cutoff_and_alias;
};

template <typename V>
struct TileDecoder {
  using Half = typename V::Half;
  using Mask = typename V::Mask;
  using Active = typename V::Active;
  using Tile = TileRegisters<V>;
  static constexpr int kHalves = V::kHalves;
  static constexpr uint32_t kPerHalf = kNumLanes / kHalves;  ///< lanes

  /// of_bank[bank of the lane][context][lane], for the lanes of Half number h.
  template <bool kTrellis, typename T>
  [[gnu::always_inline]] static inline Half by_bank(const T (*of_bank)[kNumContexts][kNumLanes], uint32_t context,
                                                    Mask odd, int h) {
    const uint32_t lane = kPerHalf * static_cast<uint32_t>(h);
    if constexpr (kTrellis) {
      return V::choose(&of_bank[0][context][lane], &of_bank[1][context][lane], odd);
    } else {
      return V::load(&of_bank[0][context][lane]);
    }
  }

  /// One step of one tile.
  template <bool kTrellis>
  [[gnu::always_inline]] static inline void step(const LookupTables& tables, const ColumnGroup& g, uint32_t c,
                                                 const Active& active, Tile* t, int16_t* out) {
    const uint32_t context = t->context[c];
    Mask odd[kHalves];
    Half k[kHalves], freq[kHalves];
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      odd[h] = kTrellis ? V::odd_lanes(t->trellis[h]) : V::no_lanes();
      Entries<V> e;
      V::load_entries(tables.packed, t->low[h], by_bank<kTrellis>(g.table, context, odd[h], h), &e);
      const Half p = V::mask_bits(t->low[h], 31);
      const Half bucket = V::mask_bits(V::template shift_right<5>(t->low[h]), 127);
      const Mask alias = V::not_below(p, V::mask_bits(e.cutoff_and_alias, 63));
      freq[h] = V::select(alias, e.alias_freq, e.own_freq);
      k[h] = V::select(alias, V::template shift_right<8>(e.cutoff_and_alias), bucket);
      V::multiply(V::mask_bits(freq[h], 0x1fff), V::add_where(alias, p, e.alias_rank), &t->low[h], &t->high[h]);
    }
    V::renormalise(active, t->low, t->high, &t->next);
    const typename V::Escapes escapes = V::escapes(freq, active);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) k[h] = V::add(k[h], by_bank<kTrellis>(g.min, context, odd[h], h));
    if ((g.raw_contexts >> context & 1u) != 0) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const Half bits = by_bank<kTrellis>(g.raw_bits, context, odd[h], h);
        V::take_raw(V::unless_escape(bits, freq[h]), &k[h], &t->low[h], &t->high[h]);
      }
      V::renormalise(active, t->low, t->high, &t->next);
    }
    if (__builtin_expect(V::any(escapes), 0)) V::take_escapes(escapes, k, &t->next);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      if constexpr (kTrellis) k[h] = V::pass_trellis(tables, odd[h], k[h], &t->trellis[h]);
      V::store(out + kPerHalf * static_cast<uint32_t>(h), k[h]);
    }
  }

  /// kTiles tiles in turns: each hides the latency of the other's chain from state to state.
  template <int kTiles, bool kTrellis>
  static void decode_tiles(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles,
                           LaneValues* out) {
    Tile t[kTiles];
    const Active active = V::active(g.active);
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      V::load_states(tiles[i]->state, t[i].low, t[i].high);
      const uint8_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        t[i].trellis[h] = V::load(trellis + kPerHalf * static_cast<uint32_t>(h));
      t[i].next = tiles[i]->next;
      t[i].context = tiles[i]->context;
    }
    for (uint32_t c = 0; c < kChunk; ++c) {
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) step<kTrellis>(tables, g, c, active, &t[i], out[i].q[c]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      V::store_states(t[i].low, t[i].high, g.active, tiles[i]->state);
      uint8_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        V::store_bytes(trellis + kPerHalf * static_cast<uint32_t>(h), t[i].trellis[h]);
      tiles[i]->next = t[i].next;
    }
  }

  static void decode(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles, uint32_t num_tiles,
                     LaneValues* out) {
    if (num_tiles == 2) {
      tables.trellis ? decode_tiles<2, true>(tables, group, tiles, out)
                     : decode_tiles<2, false>(tables, group, tiles, out);
    } else {
      tables.trellis ? decode_tiles<1, true>(tables, group, tiles, out)
                     : decode_tiles<1, false>(tables, group, tiles, out);
    }
  }
};

}  // namespace nwc
