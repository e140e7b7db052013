// AVX2 twin of pack_unit_scalar (integer_pack_simd.h): a register has eight rows of a group of columns.
#include "runtime/codec/integer_pack_simd.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nwc {
namespace {

struct Avx2 {
  using Bytes = __m256i;
  using Over = __m256i;
  static constexpr uint32_t kBytes = 32;

  static Bytes zero() { return _mm256_setzero_si256(); }
  static Over none() { return zero(); }
  static void store(uint8_t* p, Bytes v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }
  static Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
  template <int kMask>
  static Bytes keep(Bytes v) {
    return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(kMask)));
  }
  template <int kLeft>
  static Bytes shift(Bytes v) {
    if constexpr (kLeft >= 0) return _mm256_slli_epi16(v, kLeft);
    return _mm256_srli_epi16(v, kLeft < 0 ? -kLeft : 0);
  }

  /// half: 0 or 1, of a row.
  template <int kBits>
  static __m256i biased(const int16_t* row, uint32_t half) {
    const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(row) + half);
    return _mm256_adds_epi16(v, _mm256_set1_epi16(1 << (kBits - 1)));
  }
  template <int kBits>
  static __m256i not_in_range() {
    return _mm256_set1_epi16(static_cast<short>(-(1 << kBits)));
  }
  template <int kBits>
  static bool any(Over over) {
    return _mm256_testz_si256(over, not_in_range<kBits>()) == 0;
  }
  template <int kBits>
  static uint32_t beyond(const int16_t* row) {
    const auto fits = [&](uint32_t half) {
      return _mm256_cmpeq_epi16(_mm256_and_si256(biased<kBits>(row, half), not_in_range<kBits>()), zero());
    };
    const __m256i mixed = _mm256_packs_epi16(fits(0), fits(1));
    return ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(mixed, 0xd8)));
  }

  template <int kBits>
  static void narrow(const int16_t (*rows)[kNumLanes], Bytes* group, Over* over) {
    for (uint32_t half = 0; half < 2; ++half, group += 4) {
      const auto row = [&](uint32_t r) {
        const __m256i v = biased<kBits>(rows[r], half);
        *over = _mm256_or_si256(*over, v);
        return kBits == 8 ? v : _mm256_min_epi16(v, _mm256_set1_epi16((1 << kBits) - 1));
      };
      // In 128 bits k of each: words of groups 2 k and 2 k + 1 of two rows, then of one of the groups and four rows.
      __m256i even[2], odd[2];
      for (uint32_t i = 0; i < 2; ++i) {
        const __m256 a = _mm256_castsi256_ps(_mm256_packus_epi16(row(4 * i), row(4 * i + 1)));
        const __m256 b = _mm256_castsi256_ps(_mm256_packus_epi16(row(4 * i + 2), row(4 * i + 3)));
        even[i] = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
        odd[i] = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
      }
      group[0] = _mm256_permute2x128_si256(even[0], even[1], 0x20);
      group[1] = _mm256_permute2x128_si256(odd[0], odd[1], 0x20);
      group[2] = _mm256_permute2x128_si256(even[0], even[1], 0x31);
      group[3] = _mm256_permute2x128_si256(odd[0], odd[1], 0x31);
    }
  }
};

}  // namespace

bool pack_unit_avx2(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over) {
  return UnitPacker<Avx2>::pack(values, bits, unit, over);
}

}  // namespace nwc
#endif
