// AVX2 twin of decode_group_scalar: 8 lanes a register, four registers a tile. Every lane loads its bucket; no gather
// instructions, for the reason that tile_decode_avx512.cpp gives.
#include "runtime/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

constexpr int kVectors = 4;

// AVX2 cannot expand: row m lists, for each lane whose bit in m is set, which of the next words it gets.
struct ExpandTable {
  uint8_t index[256][8];
};
constexpr ExpandTable make_expand_table() {
  ExpandTable t{};
  for (unsigned m = 0; m < 256; ++m) {
    uint8_t next = 0;
    for (unsigned l = 0; l < 8; ++l) {
      t.index[m][l] = next;
      next = static_cast<uint8_t>(next + (m >> l & 1u));
    }
  }
  return t;
}
alignas(64) constexpr ExpandTable kExpand = make_expand_table();

inline __m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }

// The next words, as many as `take` (all ones or zero per lane) has lanes, in order of lanes; junk elsewhere.
inline __m256i take_words(__m256i take, const uint8_t** next) {
  const unsigned m = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(take)));
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(*next)));
  *next += 2 * static_cast<unsigned>(__builtin_popcount(m));
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand.index[m])));
  return _mm256_permutevar8x32_epi32(words, order);
}

inline __m256i renormalise(__m256i state, __m256i active, const uint8_t** next) {
  const __m256i low =
      _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_srli_epi32(state, 16), _mm256_setzero_si256()), active);
  const __m256i full = _mm256_or_si256(_mm256_slli_epi32(state, 16), take_words(low, next));
  return _mm256_blendv_epi8(state, full, low);
}

// packed[index[0, 1, 4, 5]]
inline __m256 load_4(const uint64_t* packed, const uint32_t* index) {
  const auto pair = [&](int i) {
    const __m128d first = _mm_load_sd(reinterpret_cast<const double*>(packed + index[i]));
    return _mm_loadh_pd(first, reinterpret_cast<const double*>(packed + index[i + 1]));
  };
  return _mm256_castpd_ps(_mm256_insertf128_pd(_mm256_castpd128_pd256(pair(0)), pair(4), 1));
}

inline __m256i advance(const uint64_t* packed, __m256i state, __m256i base, __m256i* hit) {
  const __m256i bucket = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(state, 5), _mm256_set1_epi32(127)), base);
  alignas(32) uint32_t index[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(index), bucket);
  // Lanes 0 1 | 4 5 and 2 3 | 6 7: the shuffles below work within 128 bits and put them in order.
  const __m256 lo = load_4(packed, index);
  const __m256 hi = load_4(packed, index + 2);
  const __m256i own = _mm256_castps_si256(_mm256_shuffle_ps(lo, hi, 0x88));
  const __m256i other = _mm256_castps_si256(_mm256_shuffle_ps(lo, hi, 0xdd));
  const __m256i p = _mm256_and_si256(state, _mm256_set1_epi32(31));
  const __m256i is_own = _mm256_cmpgt_epi32(_mm256_srli_epi32(own, 20), p);
  *hit = _mm256_blendv_epi8(other, own, is_own);
  const __m256i q = _mm256_srli_epi32(state, 12);
  const __m256i freq_minus_1 = _mm256_and_si256(*hit, _mm256_set1_epi32(0xfff));
  const __m256i alias_rank = _mm256_sub_epi32(_mm256_srli_epi32(other, 20), _mm256_set1_epi32(31));
  const __m256i rank = _mm256_add_epi32(p, _mm256_andnot_si256(is_own, alias_rank));
  return _mm256_add_epi32(_mm256_mullo_epi32(q, freq_minus_1), _mm256_add_epi32(q, rank));
}

// Registers of one tile: 8 lanes a vector, or 16 lanes of 16 bits.
struct Tile {
  __m256i active[kVectors], state[kVectors];
  __m256i trellis[kVectors / 2];  // state of each column's trellis
  const uint8_t* next;
};

inline __m256i widen(const __m256i* x, int v) {
  return _mm256_cvtepu16_epi32(v % 2 == 0 ? _mm256_castsi256_si128(x[v / 2]) : _mm256_extracti128_si256(x[v / 2], 1));
}
inline __m256i widen_signed(const __m256i* x, int v) {
  return _mm256_cvtepi16_epi32(v % 2 == 0 ? _mm256_castsi256_si128(x[v / 2]) : _mm256_extracti128_si256(x[v / 2], 1));
}
// To 16 bits, modulo 2^16.
inline __m256i narrow(const __m256i* x) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(x[0], low), _mm256_and_si256(x[1], low));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}

// All ones where x is odd.
inline __m256i is_odd(__m256i x) {
  const __m256i one = _mm256_set1_epi16(1);
  return _mm256_cmpeq_epi16(_mm256_and_si256(x, one), one);
}

// of_bank[bank of the lane][context][lane]; odd: where the bank is 1
template <bool kTrellis, typename T>
inline void by_bank(const T (*of_bank)[kNumContexts][kNumLanes], uint32_t context, const __m256i* odd, __m256i* out) {
  for (int w = 0; w < kVectors / 2; ++w) {
    const auto part = [&](uint32_t bank) {
      const T* p = &of_bank[bank][context][16 * w];
      return sizeof(T) == 2 ? load(p) : _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
    };
    out[w] = kTrellis ? _mm256_blendv_epi8(part(0), part(1), odd[w]) : part(0);
  }
}

// Section 5.6: the values' reconstruction indices; the columns' states move on.
inline __m256i pass_trellis(const LookupTables& tables, __m256i odd, __m256i k, __m256i* state) {
  const __m256i on_odd = _mm256_and_si256(odd, _mm256_set1_epi16(tables.on_odd));
  const __m256i parity = _mm256_and_si256(is_odd(k), _mm256_set1_epi16(tables.parity));
  *state = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi16(*state, 1), on_odd), parity);
  const __m256i sign = _mm256_sign_epi16(_mm256_set1_epi16(1), k);
  return _mm256_sub_epi16(_mm256_add_epi16(k, k), _mm256_and_si256(sign, odd));
}

template <bool kRaw, bool kTrellis>
[[gnu::always_inline]] inline void step(const LookupTables& tables, const ColumnGroup& g, uint32_t context, Tile* t,
                                        int16_t* out) {
  __m256i hit[kVectors], escape[kVectors], value[kVectors];
  __m256i odd[kVectors / 2], table[kVectors / 2], min[kVectors / 2];
  for (int w = 0; w < kVectors / 2; ++w) odd[w] = kTrellis ? is_odd(t->trellis[w]) : _mm256_setzero_si256();
  if constexpr (kTrellis) by_bank<kTrellis>(g.table, context, odd, table);
  for (int v = 0; v < kVectors; ++v) {
    const __m128i* of_bank_0 = reinterpret_cast<const __m128i*>(&g.table[0][context][8 * v]);
    const __m256i index = kTrellis ? widen(table, v) : _mm256_cvtepu16_epi32(*of_bank_0);
    const __m256i advanced = advance(tables.packed, t->state[v], _mm256_slli_epi32(index, 7), &hit[v]);
    t->state[v] = _mm256_blendv_epi8(t->state[v], advanced, t->active[v]);
  }
  __m256i any_escape = _mm256_setzero_si256();
  for (int v = 0; v < kVectors; ++v) {
    t->state[v] = renormalise(t->state[v], t->active[v], &t->next);
    escape[v] = _mm256_and_si256(_mm256_srai_epi32(_mm256_slli_epi32(hit[v], 12), 31), t->active[v]);
    any_escape = _mm256_or_si256(any_escape, escape[v]);
    value[v] = _mm256_and_si256(_mm256_srli_epi32(hit[v], 12), _mm256_set1_epi32(127));
  }
  by_bank<kTrellis>(g.min, context, odd, min);
  if constexpr (kRaw) {
    __m256i raw_bits[kVectors / 2];
    by_bank<kTrellis>(g.raw_bits, context, odd, raw_bits);
    for (int v = 0; v < kVectors; ++v) {
      const __m256i bits = _mm256_and_si256(widen(raw_bits, v), _mm256_andnot_si256(escape[v], t->active[v]));
      const __m256i rest = _mm256_srlv_epi32(t->state[v], bits);
      const __m256i raw = _mm256_xor_si256(t->state[v], _mm256_sllv_epi32(rest, bits));
      value[v] = _mm256_add_epi32(_mm256_sllv_epi32(_mm256_add_epi32(value[v], widen_signed(min, v)), bits), raw);
      t->state[v] = renormalise(rest, t->active[v], &t->next);
    }
  }
  __m256i k[kVectors / 2];
  for (int w = 0; w < kVectors / 2; ++w)
    k[w] = kRaw ? narrow(&value[2 * w]) : _mm256_add_epi16(narrow(&value[2 * w]), min[w]);
  if (__builtin_expect(!_mm256_testz_si256(any_escape, any_escape), 0)) {
    __m256i words[kVectors];
    for (int v = 0; v < kVectors; ++v) words[v] = take_words(escape[v], &t->next);
    for (int w = 0; w < kVectors / 2; ++w)
      k[w] = _mm256_blendv_epi8(k[w], narrow(&words[2 * w]), narrow(&escape[2 * w]));
  }
  for (int w = 0; w < kVectors / 2; ++w) {
    if constexpr (kTrellis) k[w] = pass_trellis(tables, odd[w], k[w], &t->trellis[w]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 16 * w), k[w]);
  }
}

// For the tails of few tables: most steps, even of a group that has raw bits, are without. Hence one copy for all
// loops.
template <bool kTrellis>
[[gnu::noinline]] void raw_step(const LookupTables& tables, const ColumnGroup& g, uint32_t context, Tile* t,
                                int16_t* out) {
  step<true, kTrellis>(tables, g, context, t, out);
}

// kTiles tiles in turns: each hides the latency of the other's chain from state to state. Their registers may well live
// in memory, that chain is longer.
template <int kTiles, bool kRaw, bool kTrellis>
void decode(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles, LaneValues* out) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  Tile t[kTiles];
  for (int i = 0; i < kTiles; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      t[i].active[v] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(g.active) - 8 * v), lane);
      t[i].state[v] = load(&tiles[i]->state[8 * v]);
    }
    const __m128i* trellis = reinterpret_cast<const __m128i*>(tiles[i]->trellis + g.slot * kNumLanes);
    for (int w = 0; w < kVectors / 2; ++w) t[i].trellis[w] = _mm256_cvtepu8_epi16(trellis[w]);
    t[i].next = tiles[i]->next;
  }
  for (uint32_t c = 0; c < kChunk; ++c) {
    for (int i = 0; i < kTiles; ++i) {
      const uint32_t context = tiles[i]->context[c];
      if (kRaw && (g.raw_contexts >> context & 1u) != 0) {
        raw_step<kTrellis>(tables, g, context, &t[i], out[i].q[c]);
      } else {
        step<false, kTrellis>(tables, g, context, &t[i], out[i].q[c]);
      }
    }
  }
  for (int i = 0; i < kTiles; ++i) {
    for (int v = 0; v < kVectors; ++v)
      _mm256_store_si256(reinterpret_cast<__m256i*>(&tiles[i]->state[8 * v]), t[i].state[v]);
    __m128i* trellis = reinterpret_cast<__m128i*>(tiles[i]->trellis + g.slot * kNumLanes);
    for (int w = 0; kTrellis && w < kVectors / 2; ++w) {
      const __m256i bytes = _mm256_packus_epi16(t[i].trellis[w], t[i].trellis[w]);
      trellis[w] = _mm256_castsi256_si128(_mm256_permute4x64_epi64(bytes, 0x08));
    }
    tiles[i]->next = t[i].next;
  }
}

template <bool kTrellis>
void decode(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles, uint32_t num_tiles,
            LaneValues* out) {
  // Tiles come in pairs but for the last of a column band: one way for these will do.
  if (num_tiles == 1) return decode<1, true, kTrellis>(tables, g, tiles, out);
  g.any_raw_bits ? decode<2, true, kTrellis>(tables, g, tiles, out) : decode<2, false, kTrellis>(tables, g, tiles, out);
}

}  // namespace

void decode_group_avx2(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  tables.trellis ? decode<true>(tables, group, tiles, num_tiles, out)
                 : decode<false>(tables, group, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
