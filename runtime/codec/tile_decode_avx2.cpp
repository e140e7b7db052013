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

// Entries of DecodeTables::packed at 16 positions of 16 bits.
class EntryLoader {
 public:
  /// at: written just now. Few wide loads, because each waits for it and is tried again and again.
  [[gnu::always_inline]] inline EntryLoader(const uint64_t* packed, const uint16_t* at) : packed_(packed) {
    for (uint32_t i = 0; i < 4; ++i) __builtin_memcpy(&at_[i], at + 4 * i, sizeof at_[i]);
  }
  /// Of lanes first and second of each eight, a block of 128 bits.
  [[gnu::always_inline]] inline __m256i operator()(uint32_t first, uint32_t second) const {
    const __m256d low = _mm256_castpd128_pd256(load(first, second));
    return _mm256_castpd_si256(_mm256_insertf128_pd(low, load(first + 8, second + 8), 1));
  }

 private:
  [[gnu::always_inline]] inline const double* entry(uint32_t lane) const {
    return reinterpret_cast<const double*>(packed_ + static_cast<uint16_t>(at_[lane / 4] >> (16 * (lane % 4))));
  }
  [[gnu::always_inline]] inline __m128d load(uint32_t first, uint32_t second) const {
    return _mm_loadh_pd(_mm_load_sd(entry(first)), entry(second));
  }

  const uint64_t* packed_;
  uint64_t at_[4];
};

// From 32 to 16 bits; both fit.
inline __m256i narrow(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8); }

struct Avx2 {
  using Half = __m256i;
  using Mask = __m256i;  ///< all ones or zero per lane
  static constexpr int kHalves = 2;
  struct Active {
    __m256i lanes[2];
  };
  struct Loaded {
    __m256i even[2], odd[2];  ///< of lanes 0 2, 4 6 of eight; 1 3, 5 7
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
    alignas(32) uint32_t some[kNumLanes];
    uint32_t* states = count == kNumLanes ? to : some;  // a copy of constant size is no call
    for (int h = 0; h < 2; ++h) {
      const __m256i a = _mm256_unpacklo_epi16(low[h], high[h]), b = _mm256_unpackhi_epi16(low[h], high[h]);
      __m256i* half = reinterpret_cast<__m256i*>(states + 16 * h);
      _mm256_store_si256(half, _mm256_permute2x128_si256(a, b, 0x20));
      _mm256_store_si256(half + 1, _mm256_permute2x128_si256(a, b, 0x31));
    }
    if (states != to) __builtin_memcpy(to, states, count * sizeof states[0]);
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
  static void store(void* p, Half x) { _mm256_store_si256(static_cast<__m256i*>(p), x); }
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

  static Half positions(Half low, Half table) {
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 5), _mm256_set1_epi16(127)),
                           _mm256_slli_epi16(table, 7));
  }
  [[gnu::always_inline]] static inline Loaded load_entries(const uint64_t* packed, const uint16_t* at) {
    const EntryLoader load(packed, at);
    return {{load(0, 2), load(4, 6)}, {load(1, 3), load(5, 7)}};
  }
  [[gnu::always_inline]] static inline Entries<Avx2> split_entries(const Loaded& x) {
    const auto fields = [](const __m256i* pair, auto shuffle) {
      return _mm256_castps_si256(shuffle(_mm256_castsi256_ps(pair[0]), _mm256_castsi256_ps(pair[1])));
    };
    const auto low = [](__m256 a, __m256 b) { return _mm256_shuffle_ps(a, b, 0x88); };
    const auto high = [](__m256 a, __m256 b) { return _mm256_shuffle_ps(a, b, 0xdd); };
    // Two fields of a lane in 32 bits; then lanes of even and odd number side by side, field by field.
    const __m256i even01 = fields(x.even, low), even23 = fields(x.even, high);
    const __m256i odd01 = fields(x.odd, low), odd23 = fields(x.odd, high);
    const auto first = [](__m256i a, __m256i b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa); };
    const auto second = [](__m256i a, __m256i b) { return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xaa); };
    return {first(even01, odd01), second(even01, odd01), first(even23, odd23), second(even23, odd23)};
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
  [[gnu::always_inline]] static inline bool renormalise(const Active& active, Half* low, Half* high,
                                                        const uint8_t** next, const uint8_t* limit) {
    __m256i take[2], words[2];
    for (int h = 0; h < 2; ++h)
      take[h] = _mm256_and_si256(_mm256_cmpeq_epi16(high[h], _mm256_setzero_si256()), active.lanes[h]);
    const uint8_t* after = *next;
    take_words(take, words, &after);
    if (__builtin_expect(after > limit, 0)) return false;
    *next = after;
    for (int h = 0; h < 2; ++h) {
      high[h] = _mm256_blendv_epi8(high[h], low[h], take[h]);
      low[h] = _mm256_blendv_epi8(low[h], words[h], take[h]);
    }
    return true;
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
    const __m256i on_odd = _mm256_and_si256(odd, _mm256_set1_epi16(static_cast<short>(tables.on_odd)));
    const __m256i parity = _mm256_and_si256(odd_lanes(k), _mm256_set1_epi16(static_cast<short>(tables.parity)));
    *state = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi16(*state, 1), on_odd), parity);
    const __m256i sign = _mm256_sign_epi16(_mm256_set1_epi16(1), k);
    return _mm256_sub_epi16(_mm256_add_epi16(k, k), _mm256_and_si256(sign, odd));
  }
};

}  // namespace

void decode_group_avx2(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  TileDecoder<Avx2>::decode(tables, groups, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
