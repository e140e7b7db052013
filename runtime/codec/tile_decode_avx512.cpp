// AVX-512 twin of decode_group_scalar: 16 lanes a register, two registers a tile, one or two tiles at once.
//
// Lookups: where few tables serve a step, each table is permuted in registers, 32 lanes of 16 bits at once; otherwise
// every lane loads its bucket. Gather instructions are avoided: with the microcode that works around gather data
// sampling one takes about 30 cycles whatever it gathers, which alone would halve the speed.
#include "runtime/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

// Registers of one tile; half h holds lanes 16 h to 16 h + 15.
struct Tile {
  __m512i state[2];
  const uint8_t* next;
};

// state below 2^16: state = state << 16 | next word, in order of lanes.
inline __m512i renormalise(__m512i state, __mmask16 active, const uint8_t** next) {
  const __mmask16 low = _mm512_mask_cmplt_epu32_mask(active, state, _mm512_set1_epi32(1 << 16));
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(*next)));
  *next += 2 * static_cast<unsigned>(_mm_popcnt_u32(low));
  const __m512i spread = _mm512_maskz_expand_epi32(low, words);
  return _mm512_mask_or_epi32(state, low, _mm512_slli_epi32(state, 16), spread);
}

// packed[index[0..7]]
inline __m512i load_8(const uint64_t* packed, const uint32_t* index) {
  const auto pair = [&](int i) {
    const __m128d first = _mm_load_sd(reinterpret_cast<const double*>(packed + index[i]));
    return _mm_loadh_pd(first, reinterpret_cast<const double*>(packed + index[i + 1]));
  };
  const __m256d lo = _mm256_insertf128_pd(_mm256_castpd128_pd256(pair(0)), pair(2), 1);
  const __m256d hi = _mm256_insertf128_pd(_mm256_castpd128_pd256(pair(4)), pair(6), 1);
  return _mm512_castpd_si512(_mm512_insertf64x4(_mm512_castpd256_pd512(lo), hi, 1));
}

// Section 5.3's pass 1 without the renormalisation; *hit gets the entry of section 5.4 (DecodeTables::packed).
inline __m512i advance(const uint64_t* packed, __m512i state, __m512i base, __m512i* hit) {
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

inline __mmask16 escapes(__m512i hit, __mmask16 active) {
  return _mm512_mask_test_epi32_mask(active, hit, _mm512_set1_epi32(1 << 19));
}

inline __m512i symbols(__m512i hit) { return _mm512_and_si512(_mm512_srli_epi32(hit, 12), _mm512_set1_epi32(127)); }

// Pass 3 for one half: the values of escaped lanes are the next words.
inline __m512i take_escapes(__m512i values, __mmask16 escape, const uint8_t** next) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(*next)));
  *next += 2 * static_cast<unsigned>(_mm_popcnt_u32(escape));
  return _mm512_mask_expand_epi32(values, escape, words);
}

// One step of one tile.
template <bool kRaw>
inline void step(const uint64_t* packed, const ColumnGroup& g, uint32_t c, const __mmask16* active, Tile* t,
                 int16_t* out) {
  __m512i hit[2];
  __mmask16 escape[2];
  for (int h = 0; h < 2; ++h) {
    const __m512i base = _mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(&g.table[c][0][16 * h]))), 7);
    const __m512i state = advance(packed, t->state[h], base, &hit[h]);
    t->state[h] = _mm512_mask_mov_epi32(t->state[h], active[h], state);
  }
  for (int h = 0; h < 2; ++h) {
    t->state[h] = renormalise(t->state[h], active[h], &t->next);
    escape[h] = escapes(hit[h], active[h]);
  }
  const __m512i min = _mm512_load_si512(&g.min[c][0][0]);
  __m512i value[2];
  for (int h = 0; h < 2; ++h) value[h] = symbols(hit[h]);
  if constexpr (kRaw) {
    const __m512i min_half[2] = {_mm512_cvtepi16_epi32(_mm512_castsi512_si256(min)),
                                 _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(min, 1))};
    for (int h = 0; h < 2; ++h) {
      const __m128i packed_bits = _mm_load_si128(reinterpret_cast<const __m128i*>(&g.raw_bits[c][0][16 * h]));
      const __mmask16 takes = static_cast<__mmask16>(active[h] & ~escape[h]);
      const __m512i bits = _mm512_maskz_cvtepu8_epi32(takes, packed_bits);
      const __m512i rest = _mm512_srlv_epi32(t->state[h], bits);
      const __m512i raw = _mm512_xor_si512(t->state[h], _mm512_sllv_epi32(rest, bits));
      value[h] = _mm512_add_epi32(_mm512_sllv_epi32(_mm512_add_epi32(value[h], min_half[h]), bits), raw);
      t->state[h] = renormalise(rest, active[h], &t->next);
    }
  }
  if (__builtin_expect(escape[0] | escape[1], 0)) {
    for (int h = 0; h < 2; ++h) {
      // min is added below in the path without raw bits; modulo 2^16 it cancels out.
      __m512i words = take_escapes(_mm512_setzero_si512(), escape[h], &t->next);
      if constexpr (!kRaw) {
        words = _mm512_sub_epi32(
            words, _mm512_cvtepi16_epi32(h == 0 ? _mm512_castsi512_si256(min) : _mm512_extracti64x4_epi64(min, 1)));
      }
      value[h] = _mm512_mask_mov_epi32(value[h], escape[h], words);
    }
  }
  const __m512i narrow =
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(value[0])), _mm512_cvtepi32_epi16(value[1]), 1);
  _mm512_store_si512(out, kRaw ? narrow : _mm512_add_epi16(narrow, min));
}

// column[index] for 32 lanes; high: the lanes whose index is 64 or more.
inline __m512i permute(const uint16_t* column, __m512i index, __mmask32 high) {
  const auto part = [&](int i) { return _mm512_load_si512(column + 32 * i); };
  const __m512i low_half = _mm512_permutex2var_epi16(part(0), index, part(1));
  const __m512i high_half = _mm512_permutex2var_epi16(part(2), index, part(3));
  return _mm512_mask_mov_epi16(low_half, high, high_half);
}

inline __mmask32 from_64(__m512i index) { return _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)); }

inline __m512i widen(__m512i x, int h) {
  return _mm512_cvtepu16_epi32(h == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1));
}

// One step of kTiles tiles whose lanes use few tables, none with raw bits.
template <int kTiles>
inline void step_by_table(const ShuffleTable* tables, const ColumnGroup& g, uint32_t c, const __mmask16* active,
                          Tile* t, LaneValues* out) {
  alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                     32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const uint32_t num = g.num_step_tables[c];
  __m512i p[kTiles], bucket[kTiles], entry[kTiles], rank[kTiles], symbol[kTiles], freq[kTiles];
  __mmask32 high[kTiles];
  for (int i = 0; i < kTiles; ++i) {
    const __m512i slot = _mm512_permutex2var_epi16(t[i].state[0], _mm512_load_si512(kEven), t[i].state[1]);
    p[i] = _mm512_and_si512(slot, _mm512_set1_epi16(31));
    bucket[i] = _mm512_and_si512(_mm512_srli_epi16(slot, 5), _mm512_set1_epi16(127));
    high[i] = from_64(bucket[i]);
    const ShuffleTable& table = tables[g.step_table[c][0].table];
    entry[i] = permute(table.bucket, bucket[i], high[i]);
    rank[i] = permute(table.rank, bucket[i], high[i]);
  }
  for (uint32_t d = 1; d < num; ++d) {
    const ShuffleTable& table = tables[g.step_table[c][d].table];
    const __mmask32 lanes = g.step_table[c][d].lanes[0];
    for (int i = 0; i < kTiles; ++i) {
      entry[i] = _mm512_mask_mov_epi16(entry[i], lanes, permute(table.bucket, bucket[i], high[i]));
      rank[i] = _mm512_mask_mov_epi16(rank[i], lanes, permute(table.rank, bucket[i], high[i]));
    }
  }
  for (int i = 0; i < kTiles; ++i) {
    const __m512i cutoff = _mm512_and_si512(entry[i], _mm512_set1_epi16(63));
    const __mmask32 alias = _mm512_cmpge_epu16_mask(p[i], cutoff);
    symbol[i] = _mm512_mask_srli_epi16(bucket[i], alias, entry[i], 8);
    rank[i] = _mm512_mask_add_epi16(p[i], alias, p[i], rank[i]);
    high[i] = from_64(symbol[i]);
    freq[i] = permute(tables[g.step_table[c][0].table].freq, symbol[i], high[i]);
  }
  for (uint32_t d = 1; d < num; ++d) {
    const ShuffleTable& table = tables[g.step_table[c][d].table];
    for (int i = 0; i < kTiles; ++i)
      freq[i] = _mm512_mask_mov_epi16(freq[i], g.step_table[c][d].lanes[0], permute(table.freq, symbol[i], high[i]));
  }
  const __m512i min = _mm512_load_si512(&g.min[c][0][0]);
  const uint32_t all = static_cast<uint32_t>(active[0]) | static_cast<uint32_t>(active[1]) << 16;
  for (int i = 0; i < kTiles; ++i) {
    const __mmask32 escape = _mm512_movepi16_mask(freq[i]) & all;
    freq[i] = _mm512_and_si512(freq[i], _mm512_set1_epi16(0x1fff));
    for (int h = 0; h < 2; ++h) {
      const __m512i q = _mm512_srli_epi32(t[i].state[h], 12);
      const __m512i state = _mm512_add_epi32(_mm512_mullo_epi32(q, widen(freq[i], h)), widen(rank[i], h));
      t[i].state[h] = renormalise(_mm512_mask_mov_epi32(t[i].state[h], active[h], state), active[h], &t[i].next);
    }
    __m512i value = _mm512_add_epi16(symbol[i], min);
    if (__builtin_expect(escape != 0, 0)) {
      const __m512i zero = _mm512_setzero_si512();
      const __m512i low = take_escapes(zero, static_cast<__mmask16>(escape), &t[i].next);
      const __m512i upper = take_escapes(zero, static_cast<__mmask16>(escape >> 16), &t[i].next);
      const __m512i words =
          _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(low)), _mm512_cvtepi32_epi16(upper), 1);
      value = _mm512_mask_mov_epi16(value, escape, words);
    }
    _mm512_store_si512(out[i].q[c], value);
  }
}

template <int kTiles, bool kRaw>
void decode(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles, LaneValues* out) {
  const uint32_t mask = g.active == kNumLanes ? ~0u : (1u << g.active) - 1;
  const __mmask16 active[2] = {static_cast<__mmask16>(mask), static_cast<__mmask16>(mask >> 16)};
  Tile t[kTiles];
  for (int i = 0; i < kTiles; ++i) {
    for (int h = 0; h < 2; ++h) t[i].state[h] = _mm512_load_si512(&tiles[i]->state[16 * h]);
    t[i].next = tiles[i]->next;
  }
  for (uint32_t c = 0; c < kChunk; ++c) {
    if (!kRaw && g.num_step_tables[c] != 0) {
      step_by_table<kTiles>(tables.shuffle, g, c, active, t, out);
    } else {
      for (int i = 0; i < kTiles; ++i) step<kRaw>(tables.packed, g, c, active, &t[i], out[i].q[c]);
    }
  }
  for (int i = 0; i < kTiles; ++i) {
    for (int h = 0; h < 2; ++h) _mm512_store_si512(&tiles[i]->state[16 * h], t[i].state[h]);
    tiles[i]->next = t[i].next;
  }
}

}  // namespace

void decode_group_avx512(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                         uint32_t num_tiles, LaneValues* out) {
  if (tables.trellis || tables.row_classes) return decode_group_scalar(tables, group, tiles, num_tiles, out);
  if (num_tiles == 2) {
    group.any_raw_bits ? decode<2, true>(tables, group, tiles, out) : decode<2, false>(tables, group, tiles, out);
  } else {
    group.any_raw_bits ? decode<1, true>(tables, group, tiles, out) : decode<1, false>(tables, group, tiles, out);
  }
}

}  // namespace nwc
#endif
