// Body of the x86 twins of decode_group_scalar, instantiated once per instruction set by tile_decode_{avx2,avx512}.cpp.
// Everything here is a template of the vector type `V`, which lives in an anonymous namespace: no symbol is shared
// between files that are compiled with different flags.
//
// States are split into a low and a high half, 16 bits each, so that everything, from the look-up to the words of the
// payload, is lanes of 16 bits: `Half` registers, kHalves of which hold the 32 lanes of a tile. A product of a
// frequency (13 bits) and a state without its slot (20 bits) then takes three multiplications of 16 bits, and in return
// nothing is ever widened or narrowed. What is looked up has 64 bits a lane (DecodeTables::packed); every lane loads
// its own, for gather instructions are slow where they work around gather data sampling, and tables are too many for
// registers. Positions of entries have 16 bits, too (LookupTables::wide).
//
// A step of a tile is a chain of about 90 cycles: position, look-up, multiplication, words. Processors find the work
// to fill them with only within a few hundred instructions, so that tiles take turns by phases: while one tile's
// entries are on their way, another one's are computed with. Functions of V:
//   load(p), choose(first, second, odd)   a Half from uint8_t, uint16_t or int16_t; from `second` in the odd lanes
//   positions(low, table)                 table << 7 | the state's bucket
//   load_entries(packed, at)              16 entries a register of 256 bits, in the order that split_entries wants
//   split_entries(loaded)                 field by field: of DecodeTables::packed
//   not_below(a, b), select(mask, a, b)   a >= b (both below 2^15) as a mask; a where the mask is set, else b
//   multiply(freq, low, high, rank)       the new state, in place: freq * (state >> 12) + rank
//   take_raw                              the lowest bits of the states, which lose them
//   renormalise                           states below 2^16: state << 16 | next word, in order of lanes; false, and
//   nothing
//                                         has changed, if that takes words beyond the limit
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
  typename V::Mask odd[V::kHalves];                    ///< lanes whose next symbol is of bank 1
  typename V::Active active;
  const ColumnGroup* group;
  const uint8_t *next, *limit;
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
  using Loaded = typename V::Loaded;
  using Tile = TileRegisters<V>;
  static constexpr int kHalves = V::kHalves;
  static constexpr uint32_t kPerHalf = kNumLanes / kHalves;  ///< lanes

  struct alignas(64) Positions {
    uint16_t at[kNumLanes];
  };

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

  /// The states in turn, as long as there are words.
  [[gnu::noinline, gnu::cold]] static const uint8_t* take_last_words(uint16_t* low, uint16_t* high, uint32_t active,
                                                                     const uint8_t* next, const uint8_t* limit) {
    for (uint32_t l = 0; l < active && next < limit; ++l) {
      if (high[l] != 0) continue;
      high[l] = low[l];
      __builtin_memcpy(&low[l], next, sizeof low[l]);
      next += sizeof low[l];
    }
    return next;
  }
  [[gnu::always_inline]] static inline void renormalise(Tile* t) {
    if (__builtin_expect(V::renormalise(t->active, t->low, t->high, &t->next, t->limit), 1)) return;
    alignas(64) uint16_t low[kNumLanes], high[kNumLanes];
    for (int h = 0; h < kHalves; ++h) {
      V::store(low + kPerHalf * static_cast<uint32_t>(h), t->low[h]);
      V::store(high + kPerHalf * static_cast<uint32_t>(h), t->high[h]);
    }
    t->next = take_last_words(low, high, t->group->active, t->next, t->limit);
    for (int h = 0; h < kHalves; ++h) {
      t->low[h] = V::load(low + kPerHalf * static_cast<uint32_t>(h));
      t->high[h] = V::load(high + kPerHalf * static_cast<uint32_t>(h));
    }
  }

  /// First phase of a step: where the entries lie.
  template <bool kTrellis>
  [[gnu::always_inline]] static inline void find(uint32_t c, Tile* t, Positions* positions) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      t->odd[h] = kTrellis ? V::odd_lanes(t->trellis[h]) : V::no_lanes();
      const Half table = by_bank<kTrellis>(t->group->table, t->context[c], t->odd[h], h);
      V::store(positions->at + kPerHalf * static_cast<uint32_t>(h), V::positions(t->low[h], table));
    }
    // Else GCC takes the positions out of the registers, with a shuffle each, and shuffles are what is scarce.
    __asm__("" : "+m"(*positions));
  }

  /// Second phase: brings them.
  [[gnu::always_inline]] static inline void fetch(const uint64_t* packed, const Positions& positions, Loaded* loaded) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h)
      loaded[h] = V::load_entries(packed, positions.at + kPerHalf * static_cast<uint32_t>(h));
  }

  /// Third phase: everything else.
  template <bool kTrellis>
  [[gnu::always_inline]] static inline void advance(const LookupTables& tables, uint32_t c, const Loaded* loaded,
                                                    Tile* t, int16_t* out) {
    const ColumnGroup& g = *t->group;
    const uint32_t context = t->context[c];
    Half k[kHalves], freq[kHalves];
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const Entries<V> e = V::split_entries(loaded[h]);
      const Half p = V::mask_bits(t->low[h], 31);
      const Half bucket = V::mask_bits(V::template shift_right<5>(t->low[h]), 127);
      const Mask alias = V::not_below(p, V::mask_bits(e.cutoff_and_alias, 63));
      freq[h] = V::select(alias, e.alias_freq, e.own_freq);
      k[h] = V::select(alias, V::template shift_right<8>(e.cutoff_and_alias), bucket);
      V::multiply(V::mask_bits(freq[h], 0x1fff), V::add_where(alias, p, e.alias_rank), &t->low[h], &t->high[h]);
    }
    renormalise(t);
    const typename V::Escapes escapes = V::escapes(freq, t->active);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) k[h] = V::add(k[h], by_bank<kTrellis>(g.min, context, t->odd[h], h));
    if ((g.raw_contexts >> context & 1u) != 0) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const Half bits = by_bank<kTrellis>(g.raw_bits, context, t->odd[h], h);
        V::take_raw(V::unless_escape(bits, freq[h]), &k[h], &t->low[h], &t->high[h]);
      }
      renormalise(t);
    }
    if (__builtin_expect(V::any(escapes), 0)) V::take_escapes(escapes, k, &t->next);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      if constexpr (kTrellis) k[h] = V::pass_trellis(tables, t->odd[h], k[h], &t->trellis[h]);
      V::store(out + kPerHalf * static_cast<uint32_t>(h), k[h]);
    }
  }

  /// The phases of kTiles tiles in turns.
  template <int kTiles, bool kTrellis>
  [[gnu::always_inline]] static inline void run(const LookupTables& from, Tile* t, LaneValues* out) {
    const LookupTables tables = from;  // which stores of values cannot change
    Positions positions[kTiles];
    Loaded loaded[kTiles][kHalves];
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) find<kTrellis>(0, &t[i], &positions[i]);
    if (kTiles > 1) fetch(tables.packed, positions[0], loaded[0]);
    for (uint32_t c = 0; c < kChunk; ++c) {
      const uint32_t after = c + 1 < kChunk ? c + 1 : c;  // what the last step finds is not used
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) {
        const int other = i + 1 < kTiles ? i + 1 : 0;
        fetch(tables.packed, positions[other], loaded[other]);
        advance<kTrellis>(tables, c, loaded[i], &t[i], out[i].q[c]);
        find<kTrellis>(after, &t[i], &positions[i]);
      }
    }
  }

  template <int kTiles, bool kTrellis>
  [[gnu::noinline]] static void decode_tiles(const LookupTables& tables, const ColumnGroup* const* groups,
                                             LaneStates* const* tiles, LaneValues* out) {
    Tile t[kTiles];
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) {
      V::load_states(tiles[i]->state, t[i].low, t[i].high);
      const uint16_t* trellis = tiles[i]->trellis + groups[i]->slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        t[i].trellis[h] = V::load(trellis + kPerHalf * static_cast<uint32_t>(h));
      t[i].active = V::active(groups[i]->active);
      t[i].group = groups[i];
      t[i].next = tiles[i]->next;
      t[i].limit = tiles[i]->limit;
      t[i].context = tiles[i]->context;
    }
    run<kTiles, kTrellis>(tables, t, out);
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) {
      V::store_states(t[i].low, t[i].high, groups[i]->active, tiles[i]->state);
      uint16_t* trellis = tiles[i]->trellis + groups[i]->slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        V::store(trellis + kPerHalf * static_cast<uint32_t>(h), t[i].trellis[h]);
      tiles[i]->next = t[i].next;
    }
  }

  template <bool kTrellis>
  static void decode_group(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                           uint32_t num_tiles, LaneValues* out) {
    switch (num_tiles) {
      case 1: return decode_tiles<1, kTrellis>(tables, groups, tiles, out);
      case 2: return decode_tiles<2, kTrellis>(tables, groups, tiles, out);
      case 4: return decode_tiles<4, kTrellis>(tables, groups, tiles, out);
      default: break;
    }
    // Three are rare, at the end of a tensor: a kernel for them would be 33 KiB more of code.
    decode_tiles<2, kTrellis>(tables, groups, tiles, out);
    decode_tiles<1, kTrellis>(tables, groups + 2, tiles + 2, out + 2);
  }

  static void decode(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                     uint32_t num_tiles, LaneValues* out) {
    static_assert(kTilesAtOnce == 4);
    if (tables.wide) return decode_group_scalar(tables, groups, tiles, num_tiles, out);
    tables.trellis ? decode_group<true>(tables, groups, tiles, num_tiles, out)
                   : decode_group<false>(tables, groups, tiles, num_tiles, out);
  }
};

}  // namespace nwc
