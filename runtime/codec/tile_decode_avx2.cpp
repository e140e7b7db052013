// AVX2 twin of decode_group_scalar (tile_decode_simd.h): 8 lanes a register, four registers a tile. Every lane loads
// its bucket; no gather instructions, for the reason that tile_decode_avx512.cpp gives.
#include "runtime/codec/tile_decode_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

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

inline __m256i load_lanes(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }

// The next words, as many as `take` (all ones or zero per lane) has lanes, in order of lanes; junk elsewhere.
inline __m256i take_words(__m256i take, const uint8_t** next) {
  const unsigned m = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(take)));
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(*next)));
  *next += 2 * static_cast<unsigned>(__builtin_popcount(m));
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand.index[m])));
  return _mm256_permutevar8x32_epi32(words, order);
}

inline __m256i renormalise_lanes(__m256i state, __m256i active, const uint8_t** next) {
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

inline __m256i advance_states(const uint64_t* packed, __m256i state, __m256i base, __m256i* hit) {
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

// Half 0 or 1 of 16 lanes of 16 bits.
inline __m256i widen(__m256i x, int v) {
  return _mm256_cvtepu16_epi32(v == 0 ? _mm256_castsi256_si128(x) : _mm256_extracti128_si256(x, 1));
}
inline __m256i widen_signed(__m256i x, int v) {
  return _mm256_cvtepi16_epi32(v == 0 ? _mm256_castsi256_si128(x) : _mm256_extracti128_si256(x, 1));
}
// To 16 bits, modulo 2^16.
inline __m256i narrow(const __m256i* x) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(x[0], low), _mm256_and_si256(x[1], low));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}

struct Avx2 {
  using Reg = __m256i;
  using Half = __m256i;
  using Odd = __m256i;  ///< all ones or zero per lane
  static constexpr int kHalves = 2;
  static constexpr bool kByTable = false;
  struct Active {
    Reg lanes[4];  ///< all ones or zero per lane
  };
  struct Symbols {
    Reg value[4], escape[4], any;
  };

  static Active active(uint32_t count) {
    const Reg lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    Active a;
    for (int i = 0; i < 4; ++i)
      a.lanes[i] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count) - 8 * i), lane);
    return a;
  }
  static void load_states(const uint32_t* from, Reg* state) {
    for (int i = 0; i < 4; ++i) state[i] = load_lanes(from + 8 * i);
  }
  static void store_states(const Reg* state, uint32_t, uint32_t* to) {
    for (int i = 0; i < 4; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(to + 8 * i), state[i]);
  }
  static Half load(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Half load(const uint16_t* p) { return load_lanes(p); }
  static Half load(const int16_t* p) { return load_lanes(p); }
  template <typename T>
  static Half choose(const T* first, const T* second, Odd odd) {
    return _mm256_blendv_epi8(load(first), load(second), odd);
  }
  static void store(int16_t* p, Half x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }
  static void store_bytes(uint8_t* p, Half x) {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, x), 0x08);
    _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
  }

  static Odd no_lanes() { return _mm256_setzero_si256(); }
  static Odd odd_lanes(Half x) {
    const __m256i one = _mm256_set1_epi16(1);
    return _mm256_cmpeq_epi16(_mm256_and_si256(x, one), one);
  }
  static Half add(Half a, Half b) { return _mm256_add_epi16(a, b); }

  static Reg base(Half table, int v) { return _mm256_slli_epi32(widen(table, v), 7); }
  static Reg base(const uint16_t* table) {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(*reinterpret_cast<const __m128i*>(table)), 7);
  }
  [[gnu::always_inline]] static inline Reg advance(const uint64_t* packed, Reg state, Reg base, Reg* hit) {
    return advance_states(packed, state, base, hit);
  }
  static Reg keep(Reg before, Reg after, const Active& active, int i) {
    return _mm256_blendv_epi8(before, after, active.lanes[i]);
  }
  [[gnu::always_inline]] static inline void renormalise(const Active& active, Reg* state, const uint8_t** next) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) state[i] = renormalise_lanes(state[i], active.lanes[i], next);
  }

  [[gnu::always_inline]] static inline void finish_symbols(const Reg* hit, const Active& active, Reg* state,
                                                           const uint8_t** next, Symbols* s) {
    s->any = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      state[i] = renormalise_lanes(state[i], active.lanes[i], next);
      s->escape[i] = _mm256_and_si256(_mm256_srai_epi32(_mm256_slli_epi32(hit[i], 12), 31), active.lanes[i]);
      s->any = _mm256_or_si256(s->any, s->escape[i]);
      s->value[i] = _mm256_and_si256(_mm256_srli_epi32(hit[i], 12), _mm256_set1_epi32(127));
    }
  }
  [[gnu::always_inline]] static inline void add_raw(Symbols* s, const Half* min, const Half* raw_bits,
                                                    const Active& active, Reg* state) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i bits =
          _mm256_and_si256(widen(raw_bits[i / 2], i % 2), _mm256_andnot_si256(s->escape[i], active.lanes[i]));
      const __m256i rest = _mm256_srlv_epi32(state[i], bits);
      const __m256i raw = _mm256_xor_si256(state[i], _mm256_sllv_epi32(rest, bits));
      const __m256i value = _mm256_add_epi32(s->value[i], widen_signed(min[i / 2], i % 2));
      s->value[i] = _mm256_add_epi32(_mm256_sllv_epi32(value, bits), raw);
      state[i] = rest;
    }
  }
  static Half values(const Symbols& s, int h) { return narrow(&s.value[2 * h]); }
  static bool any_escape(const Symbols& s) { return !_mm256_testz_si256(s.any, s.any); }
  static void take_escapes(const Symbols& s, const Active&, Half* k, const uint8_t** next) {
    __m256i words[4];
    for (int i = 0; i < 4; ++i) words[i] = take_words(s.escape[i], next);
    for (int h = 0; h < 2; ++h) k[h] = _mm256_blendv_epi8(k[h], narrow(&words[2 * h]), narrow(&s.escape[2 * h]));
  }

  static Half pass_trellis(const LookupTables& tables, Odd odd, Half k, Half* state) {
    const __m256i on_odd = _mm256_and_si256(odd, _mm256_set1_epi16(tables.on_odd));
    const __m256i parity = _mm256_and_si256(odd_lanes(k), _mm256_set1_epi16(tables.parity));
    *state = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi16(*state, 1), on_odd), parity);
    const __m256i sign = _mm256_sign_epi16(_mm256_set1_epi16(1), k);
    return _mm256_sub_epi16(_mm256_add_epi16(k, k), _mm256_and_si256(sign, odd));
  }
};

}  // namespace

void decode_group_avx2(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  TileDecoder<Avx2>::decode(tables, group, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
