// AVX2 twin of decode_group_scalar (tile_decode_split.h): the 32 lanes of a tile are two registers of 16-bit lanes.
#include "runtime/codec/tile_decode_split.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

// AVX2 cannot expand: row m lists, for each of 8 lanes whose bit in m is set, the bytes of the next word that it gets.
struct ExpandTable {
  uint8_t byte[256][16];
};
constexpr ExpandTable make_expand_table() {
  ExpandTable t{};
  for (unsigned m = 0; m < 256; ++m) {
    uint8_t next = 0;
    for (unsigned l = 0; l < 8; ++l) {
      t.byte[m][2 * l] = next;
      t.byte[m][2 * l + 1] = static_cast<uint8_t>(next + 1);
      next = static_cast<uint8_t>(next + 2 * (m >> l & 1u));
    }
  }
  return t;
}
alignas(64) constexpr ExpandTable kExpand = make_expand_table();

inline __m256i load_lanes(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }

inline __m256i two_lines(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))),
                                 _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
}

// The next words in the lanes where `take` is all ones (elsewhere it is zero), in order of lanes; junk elsewhere.
[[gnu::always_inline]] inline void take_words(const __m256i* take, __m256i* words, const uint8_t** next) {
  // Bytes of m: lanes 0-7, 16-23, 8-15, 24-31.
  const unsigned m = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_packs_epi16(take[0], take[1])));
  const auto before = [&](unsigned lanes) { return *next + 2 * static_cast<unsigned>(__builtin_popcount(m & lanes)); };
  const __m256i first = two_lines(*next, before(0xff));
  const __m256i second = two_lines(before(0x00ff00ff), before(0x00ffffff));
  words[0] = _mm256_shuffle_epi8(first, two_lines(kExpand.byte[m & 255u], kExpand.byte[m >> 16 & 255u]));
  words[1] = _mm256_shuffle_epi8(second, two_lines(kExpand.byte[m >> 8 & 255u], kExpand.byte[m >> 24]));
  *next = before(~0u);
}

// The entries of two pairs of positions, a block of 128 bits each.
[[gnu::always_inline]] inline __m256i load_pairs(const uint64_t* packed, const uint64_t* pairs) {
  const auto load = [&](int i) {
    const __m128d first = _mm_load_sd(reinterpret_cast<const double*>(packed + static_cast<uint32_t>(pairs[i])));
    return _mm_loadh_pd(first, reinterpret_cast<const double*>(packed + (pairs[i] >> 32)));
  };
  return _mm256_castpd_si256(_mm256_insertf128_pd(_mm256_castpd128_pd256(load(0)), load(2), 1));
}

// From 32 to 16 bits; both fit.
inline __m256i narrow(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8); }

struct Avx2 {
  using Half = __m256i;
  using Mask = __m256i;  ///< all ones or zero per lane
  static constexpr int kHalves = 2;
  struct Active {
    __m256i lanes[2];
  };
  struct Escapes {
    __m256i lanes[2];
  };

  static Active active(uint32_t count) {
    const __m256i lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto half = [&](int h) {
      return _mm256_cmpgt_epi16(_mm256_set1_epi16(static_cast<short>(static_cast<int>(count) - 16 * h)), lane);
    };
    return {{half(0), half(1)}};
  }
  static void load_states(const uint32_t* from, Half* low, Half* high) {
    const __m256i word = _mm256_set1_epi32(0xffff);
    for (int h = 0; h < 2; ++h) {
      const __m256i a = load_lanes(from + 16 * h), b = load_lanes(from + 16 * h + 8);
      low[h] = narrow(_mm256_and_si256(a, word), _mm256_and_si256(b, word));
      high[h] = narrow(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
    }
  }
  /// Resting lanes took no words, but their states are junk now: what they had before stays.
  static void store_states(const Half* low, const Half* high, uint32_t count, uint32_t* to) {
    alignas(32) uint32_t states[kNumLanes];
    for (int h = 0; h < 2; ++h) {
      const __m256i a = _mm256_unpacklo_epi16(low[h], high[h]), b = _mm256_unpackhi_epi16(low[h], high[h]);
      __m256i* half = reinterpret_cast<__m256i*>(states + 16 * h);
      _mm256_store_si256(half, _mm256_permute2x128_si256(a, b, 0x20));
      _mm256_store_si256(half + 1, _mm256_permute2x128_si256(a, b, 0x31));
    }
    __builtin_memcpy(to, states, count * sizeof states[0]);
  }
  static Half load(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Half load(const uint16_t* p) { return load_lanes(p); }
  static Half load(const int16_t* p) { return load_lanes(p); }
  template <typename T>
  static Half choose(const T* first, const T* second, Mask odd) {
    return _mm256_blendv_epi8(load(first), load(second), odd);
  }
  static void store(int16_t* p, Half x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }
  static void store_bytes(uint8_t* p, Half x) {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, x), 0x08);
    _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
  }

  static Mask no_lanes() { return _mm256_setzero_si256(); }
  static Mask odd_lanes(Half x) {
    const __m256i one = _mm256_set1_epi16(1);
    return _mm256_cmpeq_epi16(_mm256_and_si256(x, one), one);
  }
  static Half add(Half a, Half b) { return _mm256_add_epi16(a, b); }
  static Half add_where(Mask mask, Half a, Half b) { return _mm256_add_epi16(a, _mm256_and_si256(mask, b)); }
  static Half mask_bits(Half x, int bits) { return _mm256_and_si256(x, _mm256_set1_epi16(static_cast<short>(bits))); }
  template <int kBits>
  static Half shift_right(Half x) {
    return _mm256_srli_epi16(x, kBits);
  }
  static Mask not_below(Half a, Half b) { return _mm256_cmpgt_epi16(_mm256_add_epi16(a, _mm256_set1_epi16(1)), b); }
  static Half select(Mask mask, Half a, Half b) { return _mm256_blendv_epi8(b, a, mask); }

  [[gnu::always_inline]] static inline void load_entries(const uint64_t* packed, Half low, Half table,
                                                         Entries<Avx2>* e) {
    // table << 16 | bucket << 9, and then table << 7 | bucket: lanes 0-3, 8-11, and 4-7, 12-15.
    const __m256i bucket = _mm256_and_si256(_mm256_slli_epi16(low, 4), _mm256_set1_epi16(static_cast<short>(0xfe00)));
    const __m256i first = _mm256_srli_epi32(_mm256_unpacklo_epi16(bucket, table), 9);
    const __m256i second = _mm256_srli_epi32(_mm256_unpackhi_epi16(bucket, table), 9);
    // Lanes k and k + 4 of eight side by side: k = 0 and 1, and k = 2 and 3. One load brings two positions, which then
    // cost less than a load each. What follows works within eight lanes, that is 128 bits.
    alignas(32) uint64_t pairs[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), _mm256_unpacklo_epi32(first, second));
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs + 4), _mm256_unpackhi_epi32(first, second));
    // Else GCC takes the positions out of the registers, with a shuffle each, and shuffles are what is scarce.
    __asm__("" : "+m"(pairs));
    const __m256i x0 = load_pairs(packed, pairs), x1 = load_pairs(packed, pairs + 1);
    const __m256i x2 = load_pairs(packed, pairs + 4), x3 = load_pairs(packed, pairs + 5);
    const __m256i a = _mm256_unpacklo_epi16(x0, x2), b = _mm256_unpacklo_epi16(x1, x3);  // 0 2 and 1 3
    const __m256i c = _mm256_unpackhi_epi16(x0, x2), d = _mm256_unpackhi_epi16(x1, x3);  // 4 6 and 5 7
    const __m256i ab = _mm256_unpacklo_epi16(a, b), cd = _mm256_unpacklo_epi16(c, d);    // fields 0 and 1
    e->own_freq = _mm256_unpacklo_epi64(ab, cd);
    e->alias_freq = _mm256_unpackhi_epi64(ab, cd);
    const __m256i ab2 = _mm256_unpackhi_epi16(a, b), cd2 = _mm256_unpackhi_epi16(c, d);
    e->alias_rank = _mm256_unpacklo_epi64(ab2, cd2);
    e->cutoff_and_alias = _mm256_unpackhi_epi64(ab2, cd2);
  }

  [[gnu::always_inline]] static inline void multiply(Half freq, Half rank, Half* low, Half* high) {
    const __m256i q_low = _mm256_or_si256(_mm256_slli_epi16(*high, 4), _mm256_srli_epi16(*low, 12));
    const __m256i q_high = _mm256_srli_epi16(*high, 12);
    const __m256i product = _mm256_mullo_epi16(q_low, freq);
    const __m256i sum = _mm256_add_epi16(product, rank);
    // Where the sum with saturation differs there is a carry.
    const __m256i no_carry = _mm256_cmpeq_epi16(sum, _mm256_adds_epu16(product, rank));
    const __m256i upper = _mm256_add_epi16(_mm256_mulhi_epu16(q_low, freq), _mm256_mullo_epi16(q_high, freq));
    *low = sum;
    *high = _mm256_add_epi16(_mm256_add_epi16(upper, _mm256_set1_epi16(1)), no_carry);
  }
  [[gnu::always_inline]] static inline void renormalise(const Active& active, Half* low, Half* high,
                                                        const uint8_t** next) {
    __m256i take[2], words[2];
    for (int h = 0; h < 2; ++h)
      take[h] = _mm256_and_si256(_mm256_cmpeq_epi16(high[h], _mm256_setzero_si256()), active.lanes[h]);
    take_words(take, words, next);
    for (int h = 0; h < 2; ++h) {
      high[h] = _mm256_blendv_epi8(high[h], low[h], take[h]);
      low[h] = _mm256_blendv_epi8(low[h], words[h], take[h]);
    }
  }
  static Half unless_escape(Half bits, Half freq) { return _mm256_andnot_si256(_mm256_srai_epi16(freq, 15), bits); }
  // There are no shifts of 16-bit lanes by as many bits each: multiplications by powers of two, for up to 7 bits.
  static void take_raw(Half bits, Half* k, Half* low, Half* high) {
    const __m256i powers = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    const __m256i inverse = _mm256_set1_epi64x(0x0204081020408000);  // 2^(8 - bits), but for no bits
    const __m256i up = mask_bits(_mm256_shuffle_epi8(powers, bits), 255);
    const __m256i down = _mm256_slli_epi16(_mm256_shuffle_epi8(inverse, bits), 8);
    const __m256i none = _mm256_cmpeq_epi16(bits, _mm256_setzero_si256());
    const __m256i raw = _mm256_and_si256(*low, _mm256_sub_epi16(up, _mm256_set1_epi16(1)));
    *k = _mm256_add_epi16(_mm256_mullo_epi16(*k, up), raw);
    const __m256i rest = _mm256_or_si256(_mm256_mulhi_epu16(*low, down), _mm256_mullo_epi16(*high, down));
    *low = _mm256_blendv_epi8(rest, *low, none);
    *high = _mm256_blendv_epi8(_mm256_mulhi_epu16(*high, down), *high, none);
  }
  static Escapes escapes(const Half* freq, const Active& active) {
    const auto half = [&](int h) { return _mm256_and_si256(_mm256_srai_epi16(freq[h], 15), active.lanes[h]); };
    return {{half(0), half(1)}};
  }
  static bool any(const Escapes& e) {
    const __m256i lanes = _mm256_or_si256(e.lanes[0], e.lanes[1]);
    return !_mm256_testz_si256(lanes, lanes);
  }
  static void take_escapes(const Escapes& e, Half* k, const uint8_t** next) {
    __m256i words[2];
    take_words(e.lanes, words, next);
    for (int h = 0; h < 2; ++h) k[h] = _mm256_blendv_epi8(k[h], words[h], e.lanes[h]);
  }

  static Half pass_trellis(const LookupTables& tables, Mask odd, Half k, Half* state) {
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
