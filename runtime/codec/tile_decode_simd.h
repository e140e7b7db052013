// Body of the SIMD twin of decode_group_scalar that keeps states whole, for vector units that multiply and shift lanes
// of 32 bits as well as others: tile_decode_neon.cpp. That of x86 is tile_decode_split.h. Everything here is a template
// of the vector type `V`, which lives in an anonymous namespace.
//
// A vector type gives registers `Reg` of 32-bit lanes and `Half` of 16-bit lanes, twice as many; kHalves of the latter
// hold the 32 lanes of a tile, and `Reg` number 2 h + v is part v of `Half` number h. Further types: `Active` (which
// lanes take part), `Odd` (lanes of a Half whose symbols are of bank 1), `Symbols` (symbols and escapes of a step).
// Functions:
//   load(p)                     a Half from uint8_t, uint16_t or int16_t
//   choose(first, second, odd)  the same, from second in the odd lanes
//   base(table, v), base(p)     table numbers, of part v of a Half or at p, as positions in LookupTables::packed
//   advance                     section 5.3's pass 1 without the renormalisation; gives an entry of section 5.4 a lane
//   keep                        the new state in lanes that take part; others may hold junk if store_states leaves them
//   renormalise                 states below 2^16: state << 16 | next word, in order of lanes; false, and nothing has
//                               changed, if that takes words beyond the limit
//   finish_symbols              splits the entries into symbols and escapes
//   add_raw                     makes values of the symbols with min and the raw bits, which leave the states
//   values(symbols, h)          the symbols of Half h, or what add_raw made of them
//   take_escapes                the values of escaped lanes are the next words
//   pass_trellis                section 5.6: reconstruction indices; the columns' states move on
#pragma once

#include "runtime/codec/lane_kernels.h"

namespace nwc {

/// Registers of one tile.
template <typename V>
struct TileRegisters {
  typename V::Reg state[2 * V::kHalves];
  typename V::Half trellis[V::kHalves];  ///< state of each column's trellis
  typename V::Active active;
  const uint8_t *next, *limit;
  const uint8_t* context;
};

template <typename V>
struct TileDecoder {
  using Reg = typename V::Reg;
  using Half = typename V::Half;
  using Odd = typename V::Odd;
  using Active = typename V::Active;
  using Tile = TileRegisters<V>;
  static constexpr int kHalves = V::kHalves;
  static constexpr uint32_t kPerHalf = kNumLanes / kHalves;  ///< lanes
  static constexpr uint32_t kPerReg = kPerHalf / 2;

  /// of_bank[bank of the lane][context][lane], for the lanes of Half number h.
  template <bool kTrellis, typename T>
  [[gnu::always_inline]] static inline Half by_bank(const T (*of_bank)[kNumContexts][kNumLanes], uint32_t context,
                                                    Odd odd, int h) {
    const uint32_t lane = kPerHalf * static_cast<uint32_t>(h);
    if constexpr (kTrellis) {
      return V::choose(&of_bank[0][context][lane], &of_bank[1][context][lane], odd);
    } else {
      return V::load(&of_bank[0][context][lane]);
    }
  }

  /// The states in turn, as long as there are words.
  [[gnu::noinline, gnu::cold]] static const uint8_t* take_last_words(uint32_t* state, uint32_t active,
                                                                     const uint8_t* next, const uint8_t* limit) {
    for (uint32_t l = 0; l < active && next < limit; ++l) {
      if (state[l] >= kRansLow) continue;
      uint16_t word;
      __builtin_memcpy(&word, next, sizeof word);
      state[l] = state[l] << 16 | word;
      next += sizeof word;
    }
    return next;
  }
  [[gnu::always_inline]] static inline void renormalise(const ColumnGroup& g, const Active& active, Tile* t) {
    if (__builtin_expect(V::renormalise(active, t->state, &t->next, t->limit), 1)) return;
    alignas(64) uint32_t state[kNumLanes];
    V::store_states(t->state, kNumLanes, state);
    t->next = take_last_words(state, g.active, t->next, t->limit);
    V::load_states(state, t->state);
  }

  /// One step of one tile, every lane with its own lookup.
  template <bool kRaw, bool kTrellis>
  [[gnu::always_inline]] static inline void step(const LookupTables& tables, const ColumnGroup& g, uint32_t context,
                                                 const Active& active, Tile* t, int16_t* out) {
    Odd odd[kHalves];
    Reg hit[2 * kHalves];
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) {
      odd[h] = kTrellis ? V::odd_lanes(t->trellis[h]) : V::no_lanes();
      Half table;
      if constexpr (kTrellis) table = by_bank<kTrellis>(g.table, context, odd[h], h);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const int i = 2 * h + v;
        Reg base;
        if constexpr (kTrellis) {
          base = V::base(table, v);
        } else {
          base = V::base(&g.table[0][context][kPerReg * static_cast<uint32_t>(i)]);
        }
        t->state[i] = V::keep(t->state[i], V::advance(tables.packed, t->state[i], base, &hit[i]), active, i);
      }
    }
    typename V::Symbols symbols;
    renormalise(g, active, t);
    V::finish_symbols(hit, &symbols);
    Half k[kHalves];
    if constexpr (kRaw) {
      Half min[kHalves], bits[kHalves];
#pragma GCC unroll 4
      for (int h = 0; h < kHalves; ++h) {
        min[h] = by_bank<kTrellis>(g.min, context, odd[h], h);
        bits[h] = by_bank<kTrellis>(g.raw_bits, context, odd[h], h);
      }
      V::add_raw(&symbols, min, bits, active, t->state);
      renormalise(g, active, t);
#pragma GCC unroll 4
      for (int h = 0; h < kHalves; ++h) k[h] = V::values(symbols, h);
    } else {
#pragma GCC unroll 4
      for (int h = 0; h < kHalves; ++h)
        k[h] = V::add(V::values(symbols, h), by_bank<kTrellis>(g.min, context, odd[h], h));
    }
    if (__builtin_expect(V::any_escape(symbols), 0)) V::take_escapes(symbols, active, k, &t->next);
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) {
      if constexpr (kTrellis) k[h] = V::pass_trellis(tables, odd[h], k[h], &t->trellis[h]);
      V::store(out + kPerHalf * static_cast<uint32_t>(h), k[h]);
    }
  }

  /// For tails: most steps, even of a group that has raw bits, are without. Hence one copy for all loops.
  template <bool kTrellis>
  [[gnu::noinline]] static void raw_step(const LookupTables& tables, const ColumnGroup& g, uint32_t context,
                                         const Active& active, Tile* t, int16_t* out) {
    step<true, kTrellis>(tables, g, context, active, t, out);
  }

  /// kTiles tiles in turns: each hides the latency of the other's chain from state to state. Their registers may well
  /// live in memory, that chain is longer.
  template <int kTiles, bool kTrellis>
  static void decode_tiles(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                           LaneValues* out) {
    Tile t[kTiles];
    for (int i = 0; i < kTiles; ++i) {
      const ColumnGroup& g = *groups[i];
      t[i].active = V::active(g.active);
      V::load_states(tiles[i]->state, t[i].state);
      const uint16_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        t[i].trellis[h] = V::load(trellis + kPerHalf * static_cast<uint32_t>(h));
      t[i].next = tiles[i]->next;
      t[i].limit = tiles[i]->limit;
      t[i].context = tiles[i]->context;
    }
    for (uint32_t c = 0; c < kChunk; ++c) {
      for (int i = 0; i < kTiles; ++i) {
        const ColumnGroup& g = *groups[i];
        const uint32_t context = t[i].context[c];
        if ((g.raw_contexts >> context & 1u) != 0) {
          raw_step<kTrellis>(tables, g, context, t[i].active, &t[i], out[i].q[c]);
        } else {
          step<false, kTrellis>(tables, g, context, t[i].active, &t[i], out[i].q[c]);
        }
      }
    }
    for (int i = 0; i < kTiles; ++i) {
      const ColumnGroup& g = *groups[i];
      V::store_states(t[i].state, g.active, tiles[i]->state);
      uint16_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
      for (int h = 0; kTrellis && h < kHalves; ++h)
        V::store(trellis + kPerHalf * static_cast<uint32_t>(h), t[i].trellis[h]);
      tiles[i]->next = t[i].next;
    }
  }

  /// In pairs: what a third and a fourth tile at once would bring has not been measured.
  template <bool kTrellis>
  static void decode_group(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                           uint32_t num_tiles, LaneValues* out) {
    for (uint32_t i = 0; i < num_tiles; i += 2) {
      i + 1 < num_tiles ? decode_tiles<2, kTrellis>(tables, groups + i, tiles + i, out + i)
                        : decode_tiles<1, kTrellis>(tables, groups + i, tiles + i, out + i);
    }
  }

  static void decode(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                     uint32_t num_tiles, LaneValues* out) {
    tables.trellis ? decode_group<true>(tables, groups, tiles, num_tiles, out)
                   : decode_group<false>(tables, groups, tiles, num_tiles, out);
  }
};

}  // namespace nwc
