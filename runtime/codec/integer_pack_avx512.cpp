// AVX-512 twin of pack_unit_scalar (integer_pack_simd.h): a register is a whole group of columns.
#include "runtime/codec/integer_pack_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

struct Avx512 {
  using Bytes = __m512i;
  using Over = __m512i;
  static constexpr uint32_t kBytes = 64;

  static Bytes zero() { return _mm512_setzero_si512(); }
  static Over none() { return zero(); }
  static void store(uint8_t* p, Bytes v) { _mm512_store_si512(p, v); }
  static Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
  template <int kMask>
  static Bytes keep(Bytes v) {
    return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(kMask)));
  }
  template <int kLeft>
  static Bytes shift(Bytes v) {
    if constexpr (kLeft >= 0) return _mm512_slli_epi16(v, kLeft);
    return _mm512_srli_epi16(v, static_cast<unsigned>(kLeft < 0 ? -kLeft : 0));
  }

  template <int kBits>
  static __m512i biased(const int16_t* row) {
    return _mm512_adds_epi16(_mm512_load_si512(row), _mm512_set1_epi16(1 << (kBits - 1)));
  }
  template <int kBits>
  static __m512i not_in_range() {
    return _mm512_set1_epi16(static_cast<short>(-(1 << kBits)));
  }
  template <int kBits>
  static bool any(Over over) {
    return _mm512_test_epi16_mask(over, not_in_range<kBits>()) != 0;
  }
  template <int kBits>
  static uint32_t beyond(const int16_t* row) {
    return _mm512_test_epi16_mask(biased<kBits>(row), not_in_range<kBits>());
  }

  template <int kBits>
  static void narrow(const int16_t (*rows)[kNumLanes], Bytes* group, Over* over) {
    const auto row = [&](uint32_t r) {
      const __m512i v = biased<kBits>(rows[r]);
      *over = _mm512_or_si512(*over, v);
      return kBits == 8 ? v : _mm512_min_epi16(v, _mm512_set1_epi16((1 << kBits) - 1));
    };
    // In 128 bits k of each: words of groups 2 k and 2 k + 1 of two rows, then of one of the groups and four rows.
    __m512i even[4], odd[4];
    for (uint32_t i = 0; i < 4; ++i) {
      const __m512 a = _mm512_castsi512_ps(_mm512_packus_epi16(row(4 * i), row(4 * i + 1)));
      const __m512 b = _mm512_castsi512_ps(_mm512_packus_epi16(row(4 * i + 2), row(4 * i + 3)));
      even[i] = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));
      odd[i] = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd));
    }
    transpose(even, group);
    transpose(odd, group + 1);
  }

  /// Of 128 bits each: group[2 k] has those of number k of in[0 .. 3].
  static void transpose(const __m512i* in, Bytes* group) {
    const __m512i a = _mm512_shuffle_i32x4(in[0], in[1], 0x44), b = _mm512_shuffle_i32x4(in[2], in[3], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(in[0], in[1], 0xee), d = _mm512_shuffle_i32x4(in[2], in[3], 0xee);
    group[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    group[2] = _mm512_shuffle_i32x4(a, b, 0xdd);
    group[4] = _mm512_shuffle_i32x4(c, d, 0x88);
    group[6] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
};

}  // namespace

bool pack_unit_avx512(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over) {
  return UnitPacker<Avx512>::pack(values, bits, unit, over);
}

}  // namespace nwc
#endif
