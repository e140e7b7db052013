// Compiled for AVX-512. It includes nothing whose inline functions the linker could take for files that have to run on
// other processors (the test confined_viterbi).
#include <immintrin.h>

#include "trainer/search/viterbi.h"

namespace nwc {
namespace {

/// 32 numbers of 16 bits without sign.
struct V512 {
  static constexpr uint32_t kLanes = 32;
  __m512i v;

  /// Numbers of a row whose index is exchanged by xor: whole vectors, and within them.
  struct Exchange {
    uint32_t whole;
    __m512i within;
    explicit Exchange(uint32_t x) : whole(x & ~31u) {
      alignas(64) uint16_t index[32];
      for (uint32_t i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(i ^ (x & 31));
      within = _mm512_load_si512(index);
    }
  };

  static V512 load(const uint16_t* from) { return {_mm512_load_si512(from)}; }
  void store(uint16_t* to) const { _mm512_store_si512(to, v); }
  static V512 set(uint16_t x) { return {_mm512_set1_epi16(static_cast<short>(x))}; }
  V512 add(V512 o) const { return {_mm512_adds_epu16(v, o.v)}; }
  V512 min(V512 o) const { return {_mm512_min_epu16(v, o.v)}; }
  V512 subtract(V512 o) const { return {_mm512_sub_epi16(v, o.v)}; }
  uint16_t least() const {
    const __m256i a = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i b = _mm_min_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(b)));
  }
  static V512 exchanged(const uint16_t* row, uint32_t at, const Exchange& x) {
    return {_mm512_permutexvar_epi16(x.within, _mm512_load_si512(row + (at ^ x.whole)))};
  }
  /// 64 states in order, apart by parity.
  static void split(V512 a, V512 b, uint16_t* even, uint16_t* odd) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i low = _mm512_set1_epi32(0xffff);
    const __m512i e = _mm512_packus_epi32(_mm512_and_si512(a.v, low), _mm512_and_si512(b.v, low));
    const __m512i o = _mm512_packus_epi32(_mm512_srli_epi32(a.v, 16), _mm512_srli_epi32(b.v, 16));
    _mm512_store_si512(even, _mm512_permutexvar_epi64(order, e));
    _mm512_store_si512(odd, _mm512_permutexvar_epi64(order, o));
  }
  static void decisions(V512 best_a, V512 even_a, V512 best_b, V512 even_b, uint8_t* to) {
    const __mmask64 bits =
        _mm512_kunpackd(_mm512_cmpneq_epu16_mask(best_b.v, even_b.v), _mm512_cmpneq_epu16_mask(best_a.v, even_a.v));
    _mm_storeu_si64(to, _mm_cvtsi64_si128(static_cast<long long>(bits)));
  }
};

}  // namespace
}  // namespace nwc

#include "trainer/search/viterbi_kernel.inc"

namespace nwc {

extern const ViterbiForward kViterbiAvx512;
const ViterbiForward kViterbiAvx512 = forward<V512>;

}  // namespace nwc
