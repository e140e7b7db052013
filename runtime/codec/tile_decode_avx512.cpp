// AVX-512 twin of decode_group_scalar (tile_decode_simd.h): 16 lanes a register, two registers a tile, one or two tiles
// at once.
//
// Lookups: where few tables serve a step, each table is permuted in registers, 32 lanes of 16 bits at once; otherwise
// every lane loads its bucket. Gather instructions are avoided: with the microcode that works around gather data
// sampling one takes about 30 cycles whatever it gathers, which alone would halve the speed.
#include "runtime/codec/tile_decode_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

// state below 2^16: state = state << 16 | next word, in order of lanes.
[[gnu::always_inline]] inline __m512i renormalise_lanes(__m512i state, __mmask16 active, const uint8_t** next) {
  const __mmask16 low = _mm512_mask_cmplt_epu32_mask(active, state, _mm512_set1_epi32(1 << 16));
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(*next)));
  *next += 2 * static_cast<unsigned>(_mm_popcnt_u32(low));
  const __m512i spread = _mm512_maskz_expand_epi32(low, words);
  return _mm512_mask_or_epi32(state, low, _mm512_slli_epi32(state, 16), spread);
}

// packed[index[0..7]]
[[gnu::always_inline]] inline __m512i load_8(const uint64_t* packed, const uint32_t* index) {
  const auto pair = [&](int i) {
    const __m128d first = _mm_load_sd(reinterpret_cast<const double*>(packed + index[i]));
    return _mm_loadh_pd(first, reinterpret_cast<const double*>(packed + index[i + 1]));
  };
  const __m256d lo = _mm256_insertf128_pd(_mm256_castpd128_pd256(pair(0)), pair(2), 1);
  const __m256d hi = _mm256_insertf128_pd(_mm256_castpd128_pd256(pair(4)), pair(6), 1);
  return _mm512_castpd_si512(_mm512_insertf64x4(_mm512_castpd256_pd512(lo), hi, 1));
}

// Section 5.3's pass 1 without the renormalisation; *hit gets the entry of section 5.4 (DecodeTables::packed).
[[gnu::always_inline]] inline __m512i advance_states(const uint64_t* packed, __m512i state, __m512i base,
                                                     __m512i* hit) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  // (state >> 5 & 127) | base
  const __m512i bucket = _mm512_ternarylogic_epi32(_mm512_srli_epi32(state, 5), _mm512_set1_epi32(127), base, 0xea);
  alignas(64) uint32_t index[16];
  _mm512_store_si512(index, bucket);
  const __m512i lo = load_8(packed, index);
  const __m512i hi = load_8(packed, index + 8);
  const __m512i own = _mm512_permutex2var_epi32(lo, even, hi);
  const __m512i other = _mm512_permutex2var_epi32(lo, odd, hi);
  const __m512i p = _mm512_and_si512(state, _mm512_set1_epi32(31));
  const __mmask16 alias = _mm512_cmpge_epu32_mask(p, _mm512_srli_epi32(own, 20));
  *hit = _mm512_mask_mov_epi32(own, alias, other);
  const __m512i q = _mm512_srli_epi32(state, 12);
  const __m512i freq_minus_1 = _mm512_and_si512(*hit, _mm512_set1_epi32(0xfff));
  // The alias entry's rank field is offset - cutoff + 31.
  const __m512i alias_rank = _mm512_sub_epi32(_mm512_srli_epi32(other, 20), _mm512_set1_epi32(31));
  const __m512i rank = _mm512_mask_add_epi32(p, alias, p, alias_rank);
  return _mm512_add_epi32(_mm512_mullo_epi32(q, freq_minus_1), _mm512_add_epi32(q, rank));
}

inline __m512i widen(__m512i x, int h) {
  return _mm512_cvtepu16_epi32(h == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1));
}

inline __m512i widen_signed(__m512i x, int h) {
  return _mm512_cvtepi16_epi32(h == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1));
}

// To 16 bits, modulo 2^16.
inline __m512i narrow(const __m512i* halves) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(halves[0])), _mm512_cvtepi32_epi16(halves[1]),
                            1);
}

// Pass 3: the values (16 bits) of escaped lanes are the next words.
[[gnu::always_inline]] inline __m512i take_escaped(__m512i values, const __mmask16* escape, const uint8_t** next) {
  __m512i words[2];
  for (int h = 0; h < 2; ++h) {
    words[h] = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(*next)));
    words[h] = _mm512_maskz_expand_epi32(escape[h], words[h]);
    *next += 2 * static_cast<unsigned>(_mm_popcnt_u32(escape[h]));
  }
  const __mmask32 escaped = escape[0] | static_cast<__mmask32>(escape[1]) << 16;
  return _mm512_mask_mov_epi16(values, escaped, narrow(words));
}

// column[index] for 32 lanes; high: the lanes whose index is 64 or more.
[[gnu::always_inline]] inline __m512i permute(const uint16_t* column, __m512i index, __mmask32 high) {
  const auto part = [&](int i) { return _mm512_load_si512(column + 32 * i); };
  const __m512i low_half = _mm512_permutex2var_epi16(part(0), index, part(1));
  const __m512i high_half = _mm512_permutex2var_epi16(part(2), index, part(3));
  return _mm512_mask_mov_epi16(low_half, high, high_half);
}
// If there are none.
[[gnu::always_inline]] inline __m512i permute_64(const uint16_t* column, __m512i index) {
  return _mm512_permutex2var_epi16(_mm512_load_si512(column), index, _mm512_load_si512(column + 32));
}

inline __mmask32 from_64(__m512i index) { return _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)); }

// The tables of a step.
template <Lookup kLookup, bool kTrellis>
struct StepTables {
  const ShuffleTable* tables;
  const TableLanes* use;
  uint32_t num;
  __mmask32 odd;

  // Each lane's value of `column(table)`, from its own table.
  template <typename Column>
  [[gnu::always_inline]] __m512i select(Column column) const {
    __m512i x = column(tables[use[0].table]);
    if constexpr (kLookup == Lookup::kFewTables) {
      for (uint32_t d = 1; d < num; ++d) {
        const __mmask32 lanes = kTrellis ? (use[d].lanes[0] & ~odd) | (use[d].lanes[1] & odd) : use[d].lanes[0];
        x = _mm512_mask_mov_epi16(x, lanes, column(tables[use[d].table]));
      }
    } else if constexpr (kTrellis) {
      x = _mm512_mask_mov_epi16(x, odd, column(tables[use[1].table]));
    }
    return x;
  }
};

// f(0), f(1): a loop around other loops would not be unrolled, and the tiles' registers would live in memory.
template <int kTiles, typename F>
[[gnu::always_inline]] inline void each_tile(F f) {
  f(0);
  if constexpr (kTiles == 2) f(1);
}

struct Avx512 {
  using Reg = __m512i;
  using Half = __m512i;
  using Odd = __mmask32;
  static constexpr int kHalves = 1;
  static constexpr bool kByTable = true;
  struct Active {
    __mmask16 lanes[2];
  };
  struct Symbols {
    Reg value[2];
    __mmask16 escape[2];
  };

  static Active active(uint32_t count) {
    const uint32_t mask = count == kNumLanes ? ~0u : (1u << count) - 1;
    return {{static_cast<__mmask16>(mask), static_cast<__mmask16>(mask >> 16)}};
  }
  static void load_states(const uint32_t* from, Reg* state) {
    for (int i = 0; i < 2; ++i) state[i] = _mm512_load_si512(from + 16 * i);
  }
  static void store_states(const Reg* state, uint32_t, uint32_t* to) {
    for (int i = 0; i < 2; ++i) _mm512_store_si512(to + 16 * i, state[i]);
  }
  static Half load(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Half load(const uint16_t* p) { return _mm512_load_si512(p); }
  static Half load(const int16_t* p) { return _mm512_load_si512(p); }
  static Half choose(const uint8_t* first, const uint8_t* second, Odd odd) {
    const __m256i of_first = _mm256_load_si256(reinterpret_cast<const __m256i*>(first));
    return _mm512_cvtepu8_epi16(_mm256_mask_loadu_epi8(of_first, odd, second));
  }
  static Half choose(const uint16_t* first, const uint16_t* second, Odd odd) {
    return _mm512_mask_loadu_epi16(load(first), odd, second);
  }
  static Half choose(const int16_t* first, const int16_t* second, Odd odd) {
    return _mm512_mask_loadu_epi16(load(first), odd, second);
  }
  static void store(int16_t* p, Half x) { _mm512_store_si512(p, x); }
  static void store_bytes(uint8_t* p, Half x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(x));
  }

  static Odd no_lanes() { return 0; }
  static Odd odd_lanes(Half x) { return _mm512_test_epi16_mask(x, _mm512_set1_epi16(1)); }
  static Half add(Half a, Half b) { return _mm512_add_epi16(a, b); }

  static Reg base(Half table, int v) { return _mm512_slli_epi32(widen(table, v), 7); }
  static Reg base(const uint16_t* table) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(*reinterpret_cast<const __m256i*>(table)), 7);
  }
  [[gnu::always_inline]] static inline Reg advance(const uint64_t* packed, Reg state, Reg base, Reg* hit) {
    return advance_states(packed, state, base, hit);
  }
  static Reg keep(Reg before, Reg after, const Active& active, int i) {
    return _mm512_mask_mov_epi32(before, active.lanes[i], after);
  }
  [[gnu::always_inline]] static inline void renormalise(const Active& active, Reg* state, const uint8_t** next) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) state[i] = renormalise_lanes(state[i], active.lanes[i], next);
  }

  [[gnu::always_inline]] static inline void finish_symbols(const Reg* hit, const Active& active, Reg* state,
                                                           const uint8_t** next, Symbols* s) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      state[i] = renormalise_lanes(state[i], active.lanes[i], next);
      s->escape[i] = _mm512_mask_test_epi32_mask(active.lanes[i], hit[i], _mm512_set1_epi32(1 << 19));
      s->value[i] = _mm512_and_si512(_mm512_srli_epi32(hit[i], 12), _mm512_set1_epi32(127));
    }
  }
  [[gnu::always_inline]] static inline void add_raw(Symbols* s, const Half* min, const Half* raw_bits,
                                                    const Active& active, Reg* state) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __mmask16 has_bits = static_cast<__mmask16>(active.lanes[i] & ~s->escape[i]);
      const __m512i bits = _mm512_maskz_mov_epi32(has_bits, widen(raw_bits[0], i));
      const __m512i rest = _mm512_srlv_epi32(state[i], bits);
      const __m512i raw = _mm512_xor_si512(state[i], _mm512_sllv_epi32(rest, bits));
      const __m512i value = _mm512_add_epi32(s->value[i], widen_signed(min[0], i));
      s->value[i] = _mm512_add_epi32(_mm512_sllv_epi32(value, bits), raw);
      state[i] = rest;
    }
  }
  static Half values(const Symbols& s, int) { return narrow(s.value); }
  static bool any_escape(const Symbols& s) { return (s.escape[0] | s.escape[1]) != 0; }
  static void take_escapes(const Symbols& s, const Active&, Half* k, const uint8_t** next) {
    *k = take_escaped(*k, s.escape, next);
  }

  [[gnu::always_inline]] static inline Half pass_trellis(const LookupTables& tables, Odd odd, Half k, Half* state) {
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i shifted = _mm512_srli_epi16(*state, 1);
    const __m512i on_odd = _mm512_maskz_mov_epi16(odd, _mm512_set1_epi16(tables.on_odd));
    const __m512i parity = _mm512_maskz_mov_epi16(odd_lanes(k), _mm512_set1_epi16(tables.parity));
    *state = _mm512_ternarylogic_epi32(shifted, on_odd, parity, 0x96);
    const __mmask32 negative = _mm512_mask_cmplt_epi16_mask(odd, k, _mm512_setzero_si512());
    const __mmask32 positive = _mm512_mask_cmpgt_epi16_mask(odd, k, _mm512_setzero_si512());
    __m512i q = _mm512_add_epi16(k, k);
    q = _mm512_mask_add_epi16(q, negative, q, one);
    return _mm512_mask_sub_epi16(q, positive, q, one);
  }

  /// One step of kTiles tiles whose lanes use few tables.
  template <int kTiles, Lookup kLookup, bool kTrellis>
  static void step_by_table(const LookupTables& tables, const ColumnGroup& g, uint32_t c, const Active& active,
                            TileRegisters<Avx512>* t, LaneValues* out);
};

template <int kTiles, Lookup kLookup, bool kTrellis>
[[gnu::always_inline]] inline void Avx512::step_by_table(const LookupTables& tables, const ColumnGroup& g, uint32_t c,
                                                         const Active& active, TileRegisters<Avx512>* t,
                                                         LaneValues* out) {
  alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                     32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  StepTables<kLookup, kTrellis> step[kTiles];
  __m512i p[kTiles], bucket[kTiles], entry[kTiles], rank[kTiles], symbol[kTiles], freq[kTiles];
  each_tile<kTiles>([&](int i) {
    const uint32_t context = t[i].context[c];
    step[i] = {tables.shuffle, g.step_table[context], g.num_step_tables[context],
               kTrellis ? odd_lanes(t[i].trellis[0]) : no_lanes()};
    const __m512i slot = _mm512_permutex2var_epi16(t[i].state[0], _mm512_load_si512(kEven), t[i].state[1]);
    p[i] = _mm512_and_si512(slot, _mm512_set1_epi16(31));
    bucket[i] = _mm512_and_si512(_mm512_srli_epi16(slot, 5), _mm512_set1_epi16(127));
    const __mmask32 high = from_64(bucket[i]);
    entry[i] = step[i].select([&](const ShuffleTable& table) { return permute(table.bucket, bucket[i], high); });
    rank[i] = step[i].select([&](const ShuffleTable& table) { return permute(table.rank, bucket[i], high); });
  });
  each_tile<kTiles>([&](int i) {
    const __m512i cutoff = _mm512_and_si512(entry[i], _mm512_set1_epi16(63));
    const __mmask32 alias = _mm512_cmpge_epu16_mask(p[i], cutoff);
    symbol[i] = _mm512_mask_srli_epi16(bucket[i], alias, entry[i], 8);
    rank[i] = _mm512_mask_add_epi16(p[i], alias, p[i], rank[i]);
    const __mmask32 high = from_64(symbol[i]);
    freq[i] = step[i].select([&](const ShuffleTable& table) {
      return kLookup == Lookup::kOneLevel64 ? permute_64(table.freq, symbol[i]) : permute(table.freq, symbol[i], high);
    });
  });
  const uint32_t all = static_cast<uint32_t>(active.lanes[0]) | static_cast<uint32_t>(active.lanes[1]) << 16;
  each_tile<kTiles>([&](int i) {
    const __mmask32 escape = _mm512_movepi16_mask(freq[i]) & all;
    freq[i] = _mm512_and_si512(freq[i], _mm512_set1_epi16(0x1fff));
    for (int h = 0; h < 2; ++h) {
      const __m512i q = _mm512_srli_epi32(t[i].state[h], 12);
      const __m512i state = _mm512_add_epi32(_mm512_mullo_epi32(q, widen(freq[i], h)), widen(rank[i], h));
      t[i].state[h] =
          renormalise_lanes(_mm512_mask_mov_epi32(t[i].state[h], active.lanes[h], state), active.lanes[h], &t[i].next);
    }
    __m512i k =
        _mm512_add_epi16(symbol[i], TileDecoder<Avx512>::by_bank<kTrellis>(g.min, t[i].context[c], step[i].odd, 0));
    if (__builtin_expect(escape != 0, 0)) {
      const __mmask16 halves[2] = {static_cast<__mmask16>(escape), static_cast<__mmask16>(escape >> 16)};
      k = take_escaped(k, halves, &t[i].next);
    }
    if constexpr (kTrellis) k = pass_trellis(tables, step[i].odd, k, &t[i].trellis[0]);
    _mm512_store_si512(out[i].q[c], k);
  });
}

}  // namespace

void decode_group_avx512(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                         uint32_t num_tiles, LaneValues* out) {
  TileDecoder<Avx512>::decode(tables, group, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
