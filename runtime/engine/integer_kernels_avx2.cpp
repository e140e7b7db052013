// Twin of the scalar dot() in integer_kernels.cpp for AVX2: a register holds four rows of four columns in 16 bits,
// which one instruction multiplies by four inputs and adds up by twos.
#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/engine/integer_kernels_outliers.h"

namespace nwc {
namespace {

constexpr uint32_t kTile = 2;  ///< tokens

__m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store(uint8_t* p, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }

/// Between bias - 1 and bias + 1, and then from 0 on.
template <int kBits>
[[gnu::always_inline]] inline __m256i signs(__m256i biased) {
  constexpr int kBias = 1 << (kBits - 1);
  const __m256i low = _mm256_set1_epi8(static_cast<char>(kBias - 1));
  const __m256i high = _mm256_set1_epi8(static_cast<char>(kBias + 1));
  return _mm256_sub_epi8(_mm256_min_epu8(_mm256_max_epu8(biased, low), high), low);
}

/// The integers of a unit with their bias, or with kSigns their signs plus 1. The readable form is unpack_unit in
/// runtime/codec/integer_decode.cpp.
template <int kBits, bool kSigns>
[[gnu::always_inline]] inline void unpack(const uint8_t* unit, uint8_t* bytes) {
  if constexpr (kBits == 8) {  // only for their signs
    for (int i = 0; i < 512; i += 32) store(bytes + i, signs<kBits>(load(unit + i)));
    return;
  }
  constexpr int kWidth = kBits - 4, kGroups = kWidth == 0 ? 8 : 8 / kWidth;
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(((1 << kWidth) - 1) << 4));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
    for (int half = 0; half < 64; half += 32) {
      const __m256i both = load(unit + 64 * i + half);
      __m256i group[2] = {_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16(both, 4), low)};
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        const int g = 2 * i + odd;
        if constexpr (kWidth != 0) {
          const __m256i upper = load(unit + 256 + 64 * (g / kGroups) + half);
          // Bytes have no shifts of their own: what crosses from one into the next falls under the mask.
          const int at = kWidth * (g % kGroups);
          const __m128i left = _mm_cvtsi32_si128(at < 4 ? 4 - at : 0), right = _mm_cvtsi32_si128(at > 4 ? at - 4 : 0);
          const __m256i bits = _mm256_srl_epi16(_mm256_sll_epi16(upper, left), right);
          group[odd] = _mm256_or_si256(group[odd], _mm256_and_si256(bits, mask));
        }
        store(bytes + 64 * g + half, kSigns ? signs<kBits>(group[odd]) : group[odd]);
      }
    }
  }
}

template <uint32_t kTokens>
[[gnu::always_inline]] inline void add_unit(const uint8_t* bytes, const int16_t* const* x, __m256i (*sum)[4]) {
  for (uint32_t g = 0; g < 8; ++g, bytes += 64) {
    __m256i inputs[kTokens];
#pragma GCC unroll 2
    for (uint32_t t = 0; t < kTokens; ++t) {
      long long four;
      __builtin_memcpy(&four, x[t] + 4 * g, 8);
      inputs[t] = _mm256_set1_epi64x(four);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < 4; ++r) {
      const __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * r)));
#pragma GCC unroll 2
      for (uint32_t t = 0; t < kTokens; ++t) sum[t][r] = _mm256_add_epi32(sum[t][r], _mm256_madd_epi16(w, inputs[t]));
    }
  }
}

/// Of eight rows: the sums of both halves of each, and what comes on top.
[[gnu::always_inline]] inline __m256 row_sums(const __m256i* halves, __m256i more) {
  const __m256i pairs = _mm256_hadd_epi32(halves[0], halves[1]);  // rows 0 1 4 5 2 3 6 7
  return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_permute4x64_epi64(pairs, 0xd8), more));
}

template <uint32_t kTokens, bool kSigns>
void dot_tokens(const IntegerRowBlock& weights, const IntegerInputs* inputs, float (*y)[kIntegerRows]) {
  __m256 total[kTokens][2];
  const int16_t* x[kTokens];
  for (uint32_t t = 0; t < kTokens; ++t) {
    total[t][0] = total[t][1] = _mm256_setzero_ps();
    x[t] = inputs[t].value;
  }
  const uint8_t* unit = weights.units;
  const uint32_t* outlier = weights.outliers;
  for (uint32_t first = 0; first < weights.num_units; first += kUnitsPerBlock) {
    const uint32_t block = first / kUnitsPerBlock;
    alignas(32) uint32_t beyond[kTokens][kIntegerRows];
    const bool any_beyond = !kSigns && outlier_sums<kTokens>(weights, inputs, block, &outlier, beyond);
    __m256i sum[kTokens][4];
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (__m256i& s : sum[t]) s = _mm256_setzero_si256();
    }
    const uint32_t left = weights.num_units - first, units = left < kUnitsPerBlock ? left : kUnitsPerBlock;
    for (uint32_t u = 0; u < units; ++u) {
      alignas(32) uint8_t bytes[512];
      const uint32_t bits = weights.bits[first + u];
      if (bits == 4) unpack<4, kSigns>(unit, bytes);
      if (bits == 5) unpack<5, kSigns>(unit, bytes);
      if (bits == 6) unpack<6, kSigns>(unit, bytes);
      if (kSigns && bits == 8) unpack<8, kSigns>(unit, bytes);
      add_unit<kTokens>(bits == 8 && !kSigns ? unit : bytes, x, sum);
      unit += 64 * bits;
      for (uint32_t t = 0; t < kTokens; ++t) x[t] += kUnitColumns;
    }
    for (uint32_t t = 0; t < kTokens; ++t) {
      const __m256 scale = _mm256_set1_ps(inputs[t].scale[block]);
      for (uint32_t h = 0; h < 2; ++h) {
        __m256i more = _mm256_set1_epi32(inputs[t].correction[block]);
        if (any_beyond)
          more = _mm256_add_epi32(more, _mm256_load_si256(reinterpret_cast<const __m256i*>(beyond[t] + 8 * h)));
        const __m256 exact = row_sums(sum[t] + 2 * h, more);
        total[t][h] = _mm256_fmadd_ps(exact, scale, total[t][h]);
      }
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t h = 0; h < 2; ++h) _mm256_storeu_ps(y[t] + 8 * h, total[t][h]);
  }
}

template <bool kSigns>
void dot(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens, float (*y)[kIntegerRows]) {
  for (; tokens >= kTile; tokens -= kTile, inputs += kTile, y += kTile) dot_tokens<kTile, kSigns>(weights, inputs, y);
  if (tokens == 1) dot_tokens<1, kSigns>(weights, inputs, y);
}

template <uint32_t kTokens>
void dot_scaled_tokens(const IntegerRowBlock& weights, const IntegerInputs* inputs, float (*y)[kIntegerRows]) {
  __m256 total[kTokens][2], in_block[kTokens][2];
  const int16_t* x[kTokens];
  for (uint32_t t = 0; t < kTokens; ++t) {
    total[t][0] = total[t][1] = in_block[t][0] = in_block[t][1] = _mm256_setzero_ps();
    x[t] = inputs[t].value;
  }
  for (uint32_t u = 0; u < weights.num_units; ++u) {
    __m256i sum[kTokens][4];
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (__m256i& s : sum[t]) s = _mm256_setzero_si256();
    }
    add_unit<kTokens>(weights.units + size_t{512} * u, x, sum);
    const bool last = u % kUnitsPerBlock == kUnitsPerBlock - 1 || u + 1 == weights.num_units;
    for (uint32_t h = 0; h < 2; ++h) {
      const __m128i* const from = reinterpret_cast<const __m128i*>(weights.scales + size_t{16} * u + 8 * h);
      const __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)), 16));
      for (uint32_t t = 0; t < kTokens; ++t) {
        const __m256 exact = row_sums(sum[t] + 2 * h, _mm256_set1_epi32(inputs[t].correction[u]));
        in_block[t][h] = _mm256_fmadd_ps(exact, scales, in_block[t][h]);
        if (!last) continue;
        const __m256 scale = _mm256_set1_ps(inputs[t].scale[u / kUnitsPerBlock]);
        total[t][h] = _mm256_fmadd_ps(in_block[t][h], scale, total[t][h]);
        in_block[t][h] = _mm256_setzero_ps();
      }
    }
    for (uint32_t t = 0; t < kTokens; ++t) x[t] += kUnitColumns;
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t h = 0; h < 2; ++h) _mm256_storeu_ps(y[t] + 8 * h, total[t][h]);
  }
}

void dot_scaled(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                float (*y)[kIntegerRows]) {
  for (; tokens >= kTile; tokens -= kTile, inputs += kTile, y += kTile) dot_scaled_tokens<kTile>(weights, inputs, y);
  if (tokens == 1) dot_scaled_tokens<1>(weights, inputs, y);
}

}  // namespace

const IntegerKernels kAvx2Integers = {false, dot<false>, dot<true>, dot_scaled};

}  // namespace nwc
#endif
