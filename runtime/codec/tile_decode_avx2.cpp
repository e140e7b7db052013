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

template <bool kRaw>
inline void step(const uint64_t* packed, const ColumnGroup& g, uint32_t c, const __m256i* active, __m256i* state,
                 const uint8_t** next, int16_t* out) {
  __m256i hit[kVectors], escape[kVectors], value[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const __m256i advanced =
        advance(packed, state[v],
                _mm256_slli_epi32(
                    _mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(&g.table[c][0][8 * v]))), 7),
                &hit[v]);
    state[v] = _mm256_blendv_epi8(state[v], advanced, active[v]);
  }
  __m256i any_escape = _mm256_setzero_si256();
  for (int v = 0; v < kVectors; ++v) {
    state[v] = renormalise(state[v], active[v], next);
    escape[v] = _mm256_and_si256(_mm256_srai_epi32(_mm256_slli_epi32(hit[v], 12), 31), active[v]);
    any_escape = _mm256_or_si256(any_escape, escape[v]);
    const __m256i symbol = _mm256_and_si256(_mm256_srli_epi32(hit[v], 12), _mm256_set1_epi32(127));
    const __m128i min = _mm_load_si128(reinterpret_cast<const __m128i*>(&g.min[c][0][8 * v]));
    value[v] = _mm256_add_epi32(symbol, _mm256_cvtepi16_epi32(min));
  }
  if constexpr (kRaw) {
    for (int v = 0; v < kVectors; ++v) {
      const __m128i packed_bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&g.raw_bits[c][0][8 * v]));
      const __m256i takes = _mm256_andnot_si256(escape[v], active[v]);
      const __m256i bits = _mm256_and_si256(_mm256_cvtepu8_epi32(packed_bits), takes);
      const __m256i rest = _mm256_srlv_epi32(state[v], bits);
      const __m256i raw = _mm256_xor_si256(state[v], _mm256_sllv_epi32(rest, bits));
      value[v] = _mm256_add_epi32(_mm256_sllv_epi32(value[v], bits), raw);
      state[v] = renormalise(rest, active[v], next);
    }
  }
  if (__builtin_expect(!_mm256_testz_si256(any_escape, any_escape), 0)) {
    for (int v = 0; v < kVectors; ++v) value[v] = _mm256_blendv_epi8(value[v], take_words(escape[v], next), escape[v]);
  }
  // To 16 bits, modulo 2^16: the low halves, then both 128-bit parts side by side.
  const __m256i low_halves = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                              0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  for (int v = 0; v < kVectors; ++v) {
    const __m256i narrow = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(value[v], low_halves), 0x08);
    _mm_store_si128(reinterpret_cast<__m128i*>(out + 8 * v), _mm256_castsi256_si128(narrow));
  }
}

template <bool kRaw>
void decode(const uint64_t* packed, const ColumnGroup& g, LaneStates* tile, LaneValues* out) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i active[kVectors], state[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    active[v] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(g.active) - 8 * v), lane);
    state[v] = load(&tile->state[8 * v]);
  }
  const uint8_t* next = tile->next;
  for (uint32_t c = 0; c < kChunk; ++c) step<kRaw>(packed, g, c, active, state, &next, out->q[c]);
  for (int v = 0; v < kVectors; ++v) _mm256_store_si256(reinterpret_cast<__m256i*>(&tile->state[8 * v]), state[v]);
  tile->next = next;
}

}  // namespace

void decode_group_avx2(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  if (tables.trellis || tables.row_classes) return decode_group_scalar(tables, group, tiles, num_tiles, out);
  for (uint32_t t = 0; t < num_tiles; ++t) {
    group.any_raw_bits ? decode<true>(tables.packed, group, tiles[t], &out[t])
                       : decode<false>(tables.packed, group, tiles[t], &out[t]);
  }
}

}  // namespace nwc
#endif
