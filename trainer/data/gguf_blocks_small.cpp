#include "trainer/data/gguf_blocks.h"

namespace nwc::gguf_blocks {
namespace {

// 32 elements: element j in the low nibble of byte j, element j + 16 in its high nibble; with kHighBits a fifth bit
// each, bit j of a 32-bit mask. Layout: f16 scale, [f16 minimum,] [u32 mask,] 16 bytes.
template <bool kMinimum, bool kHighBits>
void decode_nibbles(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float minimum = kMinimum ? load_f16(block + 2) : 0;
  const uint8_t* at = block + (kMinimum ? 4 : 2);
  uint32_t mask = 0;
  if (kHighBits) {
    mask = load_le<uint32_t>(at);
    at += 4;
  }
  constexpr int kZero = kMinimum ? 0 : kHighBits ? 16 : 8;
  for (uint32_t j = 0; j < 32; ++j) {
    const uint32_t nibble = j < 16 ? at[j] & 15u : static_cast<uint32_t>(at[j - 16]) >> 4;
    const int value = static_cast<int>(nibble | ((mask >> j) & 1u) << 4) - kZero;
    out[j] = static_cast<float>(value) * scale;
    if (kMinimum) out[j] += minimum;
  }
}

// Twice the values of E2M1's codes: their scales are halved instead.
constexpr int8_t kE2M1Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Element j of `half` elements is in the low half of byte j, element j + half in its high half.
void decode_codes(const int8_t* values, float scale, const uint8_t* bytes, uint32_t half, float* out) {
  for (uint32_t j = 0; j < half; ++j) {
    out[j] = scale * static_cast<float>(values[bytes[j] & 15]);
    out[j + half] = scale * static_cast<float>(values[bytes[j] >> 4]);
  }
}

// 2^(e - 128), exactly: the smallest two are subnormal.
float half_e8m0(uint8_t e) { return std::bit_cast<float>(e < 2 ? 0x200000u << e : (e - 1u) << 23); }

// Half of an E4M3 without a sign; 0x7f, a NaN, stands for zero.
float half_ue4m3(uint8_t v) {
  if (v == 0x7f) return 0;
  const uint32_t exponent = bits(v, 3, 4), mantissa = bits(v, 0, 3);
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  return std::bit_cast<float>((exponent + 119) << 23 | mantissa << 20);
}

}  // namespace

void decode_q4_0(const uint8_t* block, float* out) { decode_nibbles<false, false>(block, out); }
void decode_q4_1(const uint8_t* block, float* out) { decode_nibbles<true, false>(block, out); }
void decode_q5_0(const uint8_t* block, float* out) { decode_nibbles<false, true>(block, out); }
void decode_q5_1(const uint8_t* block, float* out) { decode_nibbles<true, true>(block, out); }

void decode_q8_0(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * scale;
}

// Layout: f16 scale, 16 bytes of codes.
void decode_iq4_nl(const uint8_t* block, float* out) { decode_codes(kIq4Values, load_f16(block), block + 2, 16, out); }

// Layout: E8M0 scale, 16 bytes of codes.
void decode_mxfp4(const uint8_t* block, float* out) {
  decode_codes(kE2M1Values, half_e8m0(*block), block + 1, 16, out);
}

// Four groups of 16. Layout: four E4M3 scales, 8 bytes of codes for each group.
void decode_nvfp4(const uint8_t* block, float* out) {
  for (uint32_t group = 0; group < 4; ++group) {
    decode_codes(kE2M1Values, half_ue4m3(block[group]), block + 4 + 8 * group, 8, out + 16 * group);
  }
}

}  // namespace nwc::gguf_blocks
