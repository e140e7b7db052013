// AVX-512 twin of decode_group_scalar (tile_decode_split.h): the 32 lanes of a tile are one register of 16-bit lanes.
// With VBMI2, whose vpexpandw hands out a step's words at once; lane_kernels() asks for it.
#include "runtime/codec/tile_decode_split.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

// Entries of DecodeTables::packed at 32 positions of 16 bits.
class EntryLoader {
 public:
  /// at: written just now. Few wide loads, because each waits for it and is tried again and again.
  [[gnu::always_inline]] inline EntryLoader(const uint64_t* packed, const uint16_t* at) : packed_(packed) {
    for (uint32_t i = 0; i < 8; ++i) __builtin_memcpy(&at_[i], at + 4 * i, sizeof at_[i]);
  }
  /// Of lanes first and second of each eight, a block of 128 bits.
  [[gnu::always_inline]] inline __m512i operator()(uint32_t first, uint32_t second) const {
    const __m256d low =
        _mm256_insertf128_pd(_mm256_castpd128_pd256(load(first, second)), load(first + 8, second + 8), 1);
    const __m128d third = load(first + 16, second + 16), last = load(first + 24, second + 24);
    const __m256d high = _mm256_insertf128_pd(_mm256_castpd128_pd256(third), last, 1);
    return _mm512_castpd_si512(_mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1));
  }

 private:
  [[gnu::always_inline]] inline const double* entry(uint32_t lane) const {
    return reinterpret_cast<const double*>(packed_ + static_cast<uint16_t>(at_[lane / 4] >> (16 * (lane % 4))));
  }
  [[gnu::always_inline]] inline __m128d load(uint32_t first, uint32_t second) const {
    return _mm_loadh_pd(_mm_load_sd(entry(first)), entry(second));
  }

  const uint64_t* packed_;
  uint64_t at_[8];
};

struct Avx512 {
  using Half = __m512i;
  using Mask = __mmask32;
  using Active = __mmask32;
  struct Loaded {
    __m512i even[2], odd[2];  ///< of lanes 0 2, 4 6 of eight; 1 3, 5 7
  };
  using Escapes = __mmask32;
  static constexpr int kHalves = 1;

  static Active active(uint32_t count) { return count == kNumLanes ? ~0u : (1u << count) - 1; }
  static void load_states(const uint32_t* from, Half* low, Half* high) {
    const __m512i a = _mm512_load_si512(from), b = _mm512_load_si512(from + 16);
    alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                       32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_load_si512(kEven);
    *low = _mm512_permutex2var_epi16(a, even, b);
    *high = _mm512_permutex2var_epi16(a, _mm512_add_epi16(even, _mm512_set1_epi16(1)), b);
  }
  static void store_states(const Half* low, const Half* high, uint32_t count, uint32_t* to) {
    const Active lanes = active(count);
    const auto part = [&](int i) {
      const auto wide = [&](Half x) {
        return _mm512_cvtepu16_epi32(i == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1));
      };
      const __m512i state = _mm512_or_si512(wide(*low), _mm512_slli_epi32(wide(*high), 16));
      _mm512_mask_store_epi32(to + 16 * i, static_cast<__mmask16>(lanes >> 16 * i), state);
    };
    part(0), part(1);
  }
  static Half load(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Half load(const uint16_t* p) { return _mm512_load_si512(p); }
  static Half load(const int16_t* p) { return _mm512_load_si512(p); }
  static Half choose(const uint8_t* first, const uint8_t* second, Mask odd) {
    const __m256i of_first = _mm256_load_si256(reinterpret_cast<const __m256i*>(first));
    return _mm512_cvtepu8_epi16(_mm256_mask_loadu_epi8(of_first, odd, second));
  }
  template <typename T>
  static Half choose(const T* first, const T* second, Mask odd) {
    return _mm512_mask_blend_epi16(odd, load(first), load(second));
  }
  static void store(void* p, Half x) { _mm512_store_si512(p, x); }

  static Mask no_lanes() { return 0; }
  static Mask odd_lanes(Half x) { return _mm512_test_epi16_mask(x, _mm512_set1_epi16(1)); }
  static Half add(Half a, Half b) { return _mm512_add_epi16(a, b); }
  static Half add_where(Mask mask, Half a, Half b) { return _mm512_mask_add_epi16(a, mask, a, b); }
  static Half mask_bits(Half x, int bits) { return _mm512_and_si512(x, _mm512_set1_epi16(static_cast<short>(bits))); }
  template <int kBits>
  static Half shift_right(Half x) {
    return _mm512_srli_epi16(x, kBits);
  }
  static Mask not_below(Half a, Half b) { return _mm512_cmpge_epi16_mask(a, b); }
  static Half select(Mask mask, Half a, Half b) { return _mm512_mask_blend_epi16(mask, b, a); }

  static Half positions(Half low, Half table) {
    return _mm512_ternarylogic_epi32(_mm512_srli_epi16(low, 5), _mm512_slli_epi16(table, 7), _mm512_set1_epi16(127),
                                     0xec);  // a & c | b
  }
  [[gnu::always_inline]] static inline Loaded load_entries(const uint64_t* packed, const uint16_t* at) {
    const EntryLoader load(packed, at);
    return {{load(0, 2), load(4, 6)}, {load(1, 3), load(5, 7)}};
  }
  [[gnu::always_inline]] static inline Entries<Avx512> split_entries(const Loaded& x) {
    const auto fields = [](const __m512i* pair, auto shuffle) {
      return _mm512_castps_si512(shuffle(_mm512_castsi512_ps(pair[0]), _mm512_castsi512_ps(pair[1])));
    };
    const auto low = [](__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0x88); };
    const auto high = [](__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0xdd); };
    // Two fields of a lane in 32 bits; then lanes of even and odd number side by side, field by field.
    const __m512i even01 = fields(x.even, low), even23 = fields(x.even, high);
    const __m512i odd01 = fields(x.odd, low), odd23 = fields(x.odd, high);
    const __mmask32 upper = 0xaaaaaaaa;
    const auto first = [&](__m512i a, __m512i b) {
      return _mm512_mask_blend_epi16(upper, a, _mm512_slli_epi32(b, 16));
    };
    const auto second = [&](__m512i a, __m512i b) {
      return _mm512_mask_blend_epi16(upper, _mm512_srli_epi32(a, 16), b);
    };
    return {first(even01, odd01), second(even01, odd01), first(even23, odd23), second(even23, odd23)};
  }

  [[gnu::always_inline]] static inline void multiply(Half freq, Half rank, Half* low, Half* high) {
    const __m512i q_low = _mm512_shldi_epi16(*high, *low, 4), q_high = _mm512_srli_epi16(*high, 12);
    const __m512i sum = _mm512_add_epi16(_mm512_mullo_epi16(q_low, freq), rank);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(sum, rank);
    const __m512i upper = _mm512_add_epi16(_mm512_mulhi_epu16(q_low, freq), _mm512_mullo_epi16(q_high, freq));
    *low = sum;
    *high = _mm512_mask_sub_epi16(upper, carry, upper, _mm512_set1_epi16(-1));
  }
  [[gnu::always_inline]] static inline bool renormalise(Active active, Half* low, Half* high, const uint8_t** next,
                                                        const uint8_t* limit) {
    const __mmask32 take = _mm512_mask_testn_epi16_mask(active, *high, *high);
    const __m512i words = _mm512_loadu_si512(*next);
    const uint8_t* const after = *next + 2 * static_cast<unsigned>(_mm_popcnt_u32(take));
    if (__builtin_expect(after > limit, 0)) return false;
    *next = after;
    *high = _mm512_mask_mov_epi16(*high, take, *low);
    *low = _mm512_mask_expand_epi16(*low, take, words);
    return true;
  }
  static Half unless_escape(Half bits, Half freq) { return _mm512_maskz_mov_epi16(~_mm512_movepi16_mask(freq), bits); }
  static void take_raw(Half bits, Half* k, Half* low, Half* high) {
    const __m512i rest = _mm512_srlv_epi16(*low, bits);
    const __m512i raw = _mm512_xor_si512(*low, _mm512_sllv_epi16(rest, bits));
    *k = _mm512_add_epi16(_mm512_sllv_epi16(*k, bits), raw);
    *low = _mm512_shrdv_epi16(*low, *high, bits);
    *high = _mm512_srlv_epi16(*high, bits);
  }
  static Escapes escapes(const Half* freq, Active active) { return _mm512_movepi16_mask(*freq) & active; }
  static bool any(Escapes e) { return e != 0; }
  static void take_escapes(Escapes e, Half* k, const uint8_t** next) {
    *k = _mm512_mask_expand_epi16(*k, e, _mm512_loadu_si512(*next));
    *next += 2 * static_cast<unsigned>(_mm_popcnt_u32(e));
  }

  [[gnu::always_inline]] static inline Half pass_trellis(const LookupTables& tables, Mask odd, Half k, Half* state) {
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i shifted = _mm512_srli_epi16(*state, 1);
    const __m512i on_odd = _mm512_maskz_mov_epi16(odd, _mm512_set1_epi16(static_cast<short>(tables.on_odd)));
    const __m512i parity = _mm512_maskz_mov_epi16(odd_lanes(k), _mm512_set1_epi16(static_cast<short>(tables.parity)));
    *state = _mm512_ternarylogic_epi32(shifted, on_odd, parity, 0x96);
    const __mmask32 negative = _mm512_mask_cmplt_epi16_mask(odd, k, _mm512_setzero_si512());
    const __mmask32 positive = _mm512_mask_cmpgt_epi16_mask(odd, k, _mm512_setzero_si512());
    __m512i q = _mm512_add_epi16(k, k);
    q = _mm512_mask_add_epi16(q, negative, q, one);
    return _mm512_mask_sub_epi16(q, positive, q, one);
  }
};

}  // namespace

void decode_group_avx512(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                         uint32_t num_tiles, LaneValues* out) {
  TileDecoder<Avx512>::decode(tables, groups, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
