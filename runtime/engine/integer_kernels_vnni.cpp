// Twin of the scalar dot() in integer_kernels.cpp for AVX-512 with VNNI: a register holds 16 rows of four columns,
// which one instruction multiplies by four inputs and adds up for each row by itself. The two digits of the inputs take
// one instruction each.
#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/engine/integer_kernels_outliers.h"

namespace nwc {
namespace {

template <uint32_t kGroup>
struct Group {
  static constexpr uint32_t value = kGroup;
};

/// The upper bits of group kGroup of a unit of kBits, where they belong.
template <uint32_t kBits, uint32_t kGroup>
[[gnu::always_inline]] inline __m512i merge_upper(__m512i lower, const __m512i* upper) {
  if constexpr (kBits == 4) return lower;
  constexpr uint32_t kWidth = kBits - 4, kGroups = kWidth == 0 ? 8 : 8 / kWidth;
  constexpr int kAt = static_cast<int>(kWidth * (kGroup % kGroups));
  __m512i bits = upper[kGroup / kGroups];
  if constexpr (kAt < 4) bits = _mm512_slli_epi16(bits, static_cast<unsigned>(4 - kAt));
  if constexpr (kAt > 4) bits = _mm512_srli_epi16(bits, static_cast<unsigned>(kAt - 4));
  const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << kWidth) - 1) << 4));
  return _mm512_ternarylogic_epi32(lower, bits, mask, 0xf8);  // lower | (bits & mask)
}

template <uint32_t kBits>
struct Unit {
  const uint8_t* at;
  __m512i upper[2];

  [[gnu::always_inline]] explicit Unit(const uint8_t* unit) : at(unit) {
    if constexpr (kBits == 5 || kBits == 6) upper[0] = _mm512_loadu_si512(unit + 256);
    if constexpr (kBits == 6) upper[1] = _mm512_loadu_si512(unit + 320);
  }
  /// f(group, its 64 bytes), in order.
  template <typename F>
  [[gnu::always_inline]] void each(const F& f) const {
    pair<0>(f);
    pair<2>(f);
    pair<4>(f);
    pair<6>(f);
  }
  template <uint32_t kGroup, typename F>
  [[gnu::always_inline]] void pair(const F& f) const {
    if constexpr (kBits == 8) {
      f(Group<kGroup>(), _mm512_loadu_si512(at + 64 * kGroup));
      f(Group<kGroup + 1>(), _mm512_loadu_si512(at + 64 * (kGroup + 1)));
    } else {
      const __m512i both = _mm512_loadu_si512(at + 32 * kGroup), mask = _mm512_set1_epi8(15);
      f(Group<kGroup>(), merge_upper<kBits, kGroup>(_mm512_and_si512(both, mask), upper));
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
      f(Group<kGroup + 1>(), merge_upper<kBits, kGroup + 1>(odd, upper));
    }
  }
};

template <uint32_t kTokens>
struct Sums {
  /// Chains that one token's sums are spread over: one instruction's result takes four cycles.
  static constexpr uint32_t kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  __m512i hi[kTokens][kChains], lo[kTokens][kChains];
};

template <uint32_t kBits, bool kSigns, uint32_t kTokens>
[[gnu::always_inline]] inline void add_unit(const uint8_t* unit, const int8_t* const* digits, Sums<kTokens>* sums) {
  Unit<kBits>(unit).each([&](auto group, __m512i weights) {
    constexpr uint32_t kGroup = decltype(group)::value;
    constexpr uint32_t kChain = kGroup % Sums<kTokens>::kChains;
    if constexpr (kSigns) {  // between bias - 1 and bias + 1, and then from 0 on
      constexpr int kBias = 1 << (kBits - 1);
      const __m512i low = _mm512_set1_epi8(static_cast<char>(kBias - 1));
      const __m512i high = _mm512_set1_epi8(static_cast<char>(kBias + 1));
      weights = _mm512_sub_epi8(_mm512_min_epu8(_mm512_max_epu8(weights, low), high), low);
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) {
      int hi, lo;
      __builtin_memcpy(&hi, digits[t] + 8 * kGroup, 4);
      __builtin_memcpy(&lo, digits[t] + 8 * kGroup + 4, 4);
      sums->hi[t][kChain] = _mm512_dpbusd_epi32(sums->hi[t][kChain], weights, _mm512_set1_epi32(hi));
      sums->lo[t][kChain] = _mm512_dpbusd_epi32(sums->lo[t][kChain], weights, _mm512_set1_epi32(lo));
    }
  });
}

template <uint32_t kTokens>
[[gnu::always_inline]] inline void begin_sums(const IntegerInputs* inputs, uint32_t at, Sums<kTokens>* sums) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < Sums<kTokens>::kChains; ++c) {
      sums->hi[t][c] = _mm512_setzero_si512();
      sums->lo[t][c] = c == 0 ? _mm512_set1_epi32(inputs[t].correction[at]) : _mm512_setzero_si512();
    }
  }
}

template <uint32_t kTokens>
[[gnu::always_inline]] inline __m512 row_sums(const Sums<kTokens>& sums, uint32_t t) {
  __m512i hi = sums.hi[t][0], lo = sums.lo[t][0];
#pragma GCC unroll 4
  for (uint32_t c = 1; c < Sums<kTokens>::kChains; ++c) {
    hi = _mm512_add_epi32(hi, sums.hi[t][c]);
    lo = _mm512_add_epi32(lo, sums.lo[t][c]);
  }
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(hi, 8), lo));
}

template <uint32_t kTokens, bool kSigns>
void dot_tokens(const IntegerRowBlock& weights, const IntegerInputs* inputs, float (*y)[kIntegerRows]) {
  __m512 total[kTokens];
  const int8_t* digits[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) {
    total[t] = _mm512_setzero_ps();
    digits[t] = inputs[t].digits;
  }
  const uint8_t* unit = weights.units;
  const uint32_t* outlier = weights.outliers;
  for (uint32_t first = 0; first < weights.num_units; first += kUnitsPerBlock) {
    const uint32_t block = first / kUnitsPerBlock;
    Sums<kTokens> sums;
    begin_sums(inputs, block, &sums);
    alignas(64) uint32_t beyond[kTokens][kIntegerRows];
    if (!kSigns && outlier_sums<kTokens>(weights, inputs, block, &outlier, beyond)) {
#pragma GCC unroll 8
      for (uint32_t t = 0; t < kTokens; ++t)
        sums.lo[t][0] = _mm512_add_epi32(sums.lo[t][0], _mm512_load_si512(beyond[t]));
    }
    const uint32_t left = weights.num_units - first, units = left < kUnitsPerBlock ? left : kUnitsPerBlock;
    for (uint32_t u = 0; u < units; ++u) {
      const uint32_t bits = weights.bits[first + u];
      if (bits == 8) {
        add_unit<8, kSigns, kTokens>(unit, digits, &sums);
      } else if (bits == 5) {
        add_unit<5, kSigns, kTokens>(unit, digits, &sums);
      } else if (bits == 6) {
        add_unit<6, kSigns, kTokens>(unit, digits, &sums);
      } else {
        add_unit<4, kSigns, kTokens>(unit, digits, &sums);
      }
      unit += 64 * bits;
#pragma GCC unroll 8
      for (uint32_t t = 0; t < kTokens; ++t) digits[t] += 2 * kUnitColumns;
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t)
      total[t] = _mm512_fmadd_ps(row_sums(sums, t), _mm512_set1_ps(inputs[t].scale[block]), total[t]);
  }
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) _mm512_storeu_ps(y[t], total[t]);
}

template <bool kSigns>
void dot(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens, float (*y)[kIntegerRows]) {
  // A variant for each number of tokens would be much code for little.
  constexpr uint32_t kMost = kSigns ? 4 : kIntegerTokens;
  for (; tokens >= kMost; tokens -= kMost, inputs += kMost, y += kMost) dot_tokens<kMost, kSigns>(weights, inputs, y);
  if constexpr (!kSigns) {
    if (tokens >= 4) {
      dot_tokens<4, kSigns>(weights, inputs, y);
      tokens -= 4, inputs += 4, y += 4;
    }
  }
  for (; tokens != 0; --tokens, ++inputs, ++y) dot_tokens<1, kSigns>(weights, inputs, y);
}

template <uint32_t kTokens>
void dot_scaled_tokens(const IntegerRowBlock& weights, const IntegerInputs* inputs, float (*y)[kIntegerRows]) {
  __m512 total[kTokens], in_block[kTokens];
  const int8_t* digits[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) {
    total[t] = in_block[t] = _mm512_setzero_ps();
    digits[t] = inputs[t].digits;
  }
  for (uint32_t u = 0; u < weights.num_units; ++u) {
    Sums<kTokens> sums;
    begin_sums(inputs, u, &sums);
    add_unit<8, false, kTokens>(weights.units + size_t{512} * u, digits, &sums);
    const __m256i bf16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights.scales + size_t{16} * u));
    const __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) {
      in_block[t] = _mm512_fmadd_ps(row_sums(sums, t), scales, in_block[t]);
      digits[t] += 2 * kUnitColumns;
    }
    if (u % kUnitsPerBlock != kUnitsPerBlock - 1 && u + 1 != weights.num_units) continue;
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) {
      total[t] = _mm512_fmadd_ps(in_block[t], _mm512_set1_ps(inputs[t].scale[u / kUnitsPerBlock]), total[t]);
      in_block[t] = _mm512_setzero_ps();
    }
  }
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) _mm512_storeu_ps(y[t], total[t]);
}

void dot_scaled(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                float (*y)[kIntegerRows]) {
  constexpr uint32_t kMost = 4;
  for (; tokens >= kMost; tokens -= kMost, inputs += kMost, y += kMost) dot_scaled_tokens<kMost>(weights, inputs, y);
  for (; tokens != 0; --tokens, ++inputs, ++y) dot_scaled_tokens<1>(weights, inputs, y);
}

}  // namespace

const IntegerKernels kVnniIntegers = {true, dot<false>, dot<true>, dot_scaled};

}  // namespace nwc
#endif
