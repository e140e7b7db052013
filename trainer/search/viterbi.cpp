#include "trainer/search/viterbi.h"

#include <algorithm>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace nwc {
namespace {

/// The readable twin of all kernels.
uint16_t forward_scalar(const Trellis& trellis, std::span<const BranchMetrics> samples, uint8_t* decisions) {
  const uint32_t states = trellis.num_states(), half = states / 2;
  const size_t bytes = decision_bytes(trellis), interval = kSafeSamples - trellis.bits;
  uint16_t metric[2][kMaxTrellisStates];
  std::fill_n(metric[0], states, kUnreachable);
  metric[0][0] = 0;
  size_t until = kSafeSamples;
  for (size_t i = 0; i < samples.size(); ++i, decisions += bytes) {
    const uint16_t* before = metric[i % 2];
    uint16_t* after = metric[(i + 1) % 2];
    std::fill_n(decisions, bytes, uint8_t{0});
    for (uint32_t n = 0; n < states; ++n) {
      uint32_t x[2];
      for (uint32_t parity = 0; parity < 2; ++parity) {
        const uint16_t from = previous_state(trellis, static_cast<uint16_t>(n), parity);
        x[parity] = std::min<uint32_t>(before[from] + samples[i].of_set[2 * (n / half) + parity], kUnreachable);
      }
      after[n] = static_cast<uint16_t>(std::min(x[0], x[1]));
      if (x[1] < x[0]) decisions[n / 8] |= static_cast<uint8_t>(1u << n % 8);
    }
    if (--until != 0) continue;
    until = interval;
    const uint16_t least = *std::min_element(after, after + states);
    for (uint32_t n = 0; n < states; ++n) after[n] = static_cast<uint16_t>(after[n] - least);
  }
  const uint16_t* last = metric[samples.size() % 2];
  return static_cast<uint16_t>(std::min_element(last, last + states) - last);
}

#if defined(__AVX2__)
/// 8 numbers of 16 bits without sign.
struct V128 {
  static constexpr uint32_t kLanes = 8;
  __m128i v;

  /// Numbers of a row whose index is exchanged by xor: whole vectors, and within them.
  struct Exchange {
    uint32_t whole;
    __m128i within;
    explicit Exchange(uint32_t x) : whole(x & ~7u) {
      alignas(16) uint8_t index[16];
      for (uint32_t i = 0; i < 16; ++i) index[i] = static_cast<uint8_t>(i ^ 2 * (x & 7));
      within = _mm_load_si128(reinterpret_cast<const __m128i*>(index));
    }
  };

  static V128 load(const uint16_t* from) { return {_mm_load_si128(reinterpret_cast<const __m128i*>(from))}; }
  void store(uint16_t* to) const { _mm_store_si128(reinterpret_cast<__m128i*>(to), v); }
  static V128 set(uint16_t x) { return {_mm_set1_epi16(static_cast<short>(x))}; }
  V128 add(V128 o) const { return {_mm_adds_epu16(v, o.v)}; }
  V128 min(V128 o) const { return {_mm_min_epu16(v, o.v)}; }
  V128 subtract(V128 o) const { return {_mm_sub_epi16(v, o.v)}; }
  uint16_t least() const { return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(v))); }
  static V128 exchanged(const uint16_t* row, uint32_t at, const Exchange& x) {
    return {_mm_shuffle_epi8(load(row + (at ^ x.whole)).v, x.within)};
  }
  /// 16 states in order, apart by parity.
  static void split(V128 a, V128 b, uint16_t* even, uint16_t* odd) {
    const __m128i low = _mm_set1_epi32(0xffff);
    V128{_mm_packus_epi32(_mm_and_si128(a.v, low), _mm_and_si128(b.v, low))}.store(even);
    V128{_mm_packus_epi32(_mm_srli_epi32(a.v, 16), _mm_srli_epi32(b.v, 16))}.store(odd);
  }
  static void decisions(V128 best_a, V128 even_a, V128 best_b, V128 even_b, uint8_t* to) {
    const __m128i same = _mm_packs_epi16(_mm_cmpeq_epi16(best_a.v, even_a.v), _mm_cmpeq_epi16(best_b.v, even_b.v));
    const auto bits = static_cast<uint32_t>(~_mm_movemask_epi8(same));
    to[0] = static_cast<uint8_t>(bits);
    to[1] = static_cast<uint8_t>(bits >> 8);
  }
};

/// 16 of them.
struct V256 {
  static constexpr uint32_t kLanes = 16;
  __m256i v;

  struct Exchange {
    uint32_t whole;  ///< of 8 numbers
    __m256i within;
    explicit Exchange(uint32_t x) : whole(x & ~7u), within(_mm256_broadcastsi128_si256(V128::Exchange(x).within)) {}
  };

  static V256 load(const uint16_t* from) { return {_mm256_load_si256(reinterpret_cast<const __m256i*>(from))}; }
  void store(uint16_t* to) const { _mm256_store_si256(reinterpret_cast<__m256i*>(to), v); }
  static V256 set(uint16_t x) { return {_mm256_set1_epi16(static_cast<short>(x))}; }
  V256 add(V256 o) const { return {_mm256_adds_epu16(v, o.v)}; }
  V256 min(V256 o) const { return {_mm256_min_epu16(v, o.v)}; }
  V256 subtract(V256 o) const { return {_mm256_sub_epi16(v, o.v)}; }
  uint16_t least() const {
    return V128{_mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1))}.least();
  }
  static V256 exchanged(const uint16_t* row, uint32_t at, const Exchange& x) {
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(V128::load(row + (at ^ x.whole)).v),
                                                 V128::load(row + ((at + 8) ^ x.whole)).v, 1);
    return {_mm256_shuffle_epi8(both, x.within)};
  }
  /// Packing works in halves of 128 bits; this puts their quarters in order.
  static __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xd8); }
  static void split(V256 a, V256 b, uint16_t* even, uint16_t* odd) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    V256{in_order(_mm256_packus_epi32(_mm256_and_si256(a.v, low), _mm256_and_si256(b.v, low)))}.store(even);
    V256{in_order(_mm256_packus_epi32(_mm256_srli_epi32(a.v, 16), _mm256_srli_epi32(b.v, 16)))}.store(odd);
  }
  static void decisions(V256 best_a, V256 even_a, V256 best_b, V256 even_b, uint8_t* to) {
    const __m256i same =
        in_order(_mm256_packs_epi16(_mm256_cmpeq_epi16(best_a.v, even_a.v), _mm256_cmpeq_epi16(best_b.v, even_b.v)));
    _mm_storeu_si32(to, _mm_cvtsi32_si128(~_mm256_movemask_epi8(same)));
  }
};

#elif defined(__aarch64__)
/// 8 numbers of 16 bits without sign.
struct V128 {
  static constexpr uint32_t kLanes = 8;
  uint16x8_t v;

  /// Numbers of a row whose index is exchanged by xor: whole vectors, and within them.
  struct Exchange {
    uint32_t whole;
    uint8x16_t within;
    explicit Exchange(uint32_t x) : whole(x & ~7u) {
      uint8_t index[16];
      for (uint32_t i = 0; i < 16; ++i) index[i] = static_cast<uint8_t>(i ^ 2 * (x & 7));
      within = vld1q_u8(index);
    }
  };

  static V128 load(const uint16_t* from) { return {vld1q_u16(from)}; }
  void store(uint16_t* to) const { vst1q_u16(to, v); }
  static V128 set(uint16_t x) { return {vdupq_n_u16(x)}; }
  V128 add(V128 o) const { return {vqaddq_u16(v, o.v)}; }
  V128 min(V128 o) const { return {vminq_u16(v, o.v)}; }
  V128 subtract(V128 o) const { return {vsubq_u16(v, o.v)}; }
  uint16_t least() const { return vminvq_u16(v); }
  static V128 exchanged(const uint16_t* row, uint32_t at, const Exchange& x) {
    return {vreinterpretq_u16_u8(vqtbl1q_u8(vreinterpretq_u8_u16(vld1q_u16(row + (at ^ x.whole))), x.within))};
  }
  /// 16 states in order, apart by parity.
  static void split(V128 a, V128 b, uint16_t* even, uint16_t* odd) {
    vst1q_u16(even, vuzp1q_u16(a.v, b.v));
    vst1q_u16(odd, vuzp2q_u16(a.v, b.v));
  }
  static void decisions(V128 best_a, V128 even_a, V128 best_b, V128 even_b, uint8_t* to) {
    constexpr uint16_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t bits = vld1q_u16(kBits);
    to[0] = static_cast<uint8_t>(vaddvq_u16(vbicq_u16(bits, vceqq_u16(best_a.v, even_a.v))));
    to[1] = static_cast<uint8_t>(vaddvq_u16(vbicq_u16(bits, vceqq_u16(best_b.v, even_b.v))));
  }
};
#endif

}  // namespace
}  // namespace nwc

#if defined(__AVX2__) || defined(__aarch64__)
#include "trainer/search/viterbi_kernel.inc"
#endif

namespace nwc {

extern const ViterbiForward kViterbiAvx512;

ViterbiForward viterbi_forward([[maybe_unused]] const Trellis& trellis, [[maybe_unused]] CpuLevel most) {
#ifdef NWC_TRAINER_AVX512
  if (most >= CpuLevel::kAvx512 && trellis.bits >= 6) return kViterbiAvx512;
#endif
#if defined(__AVX2__)
  if (most >= CpuLevel::kAvx2 && trellis.bits >= 5) return forward<V256>;
  if (most >= CpuLevel::kAvx2 && trellis.bits == 4) return forward<V128>;
#elif defined(__aarch64__)
  if (most >= CpuLevel::kNeon && trellis.bits >= 4) return forward<V128>;
#endif
  return forward_scalar;
}

}  // namespace nwc
