#include "trainer/data/gguf_blocks.h"

namespace nwc::gguf_blocks {
namespace {

struct ScaleAndMinimum {
  float scale, minimum;
};

// Eight 6-bit scales and eight 6-bit minimums in 12 bytes: 0 to 3 in the low bits of bytes 0-3 and 4-7; 4 to 7 have
// their low nibbles in bytes 8-11 and their upper two bits in the upper two bits of bytes 0-3 and 4-7.
ScaleAndMinimum unpack_scale(const uint8_t* packed, uint32_t j) {
  uint32_t scale, minimum;
  if (j < 4) {
    scale = packed[j] & 63u;
    minimum = packed[j + 4] & 63u;
  } else {
    scale = (packed[j + 4] & 15u) | static_cast<uint32_t>(packed[j - 4] >> 6) << 4;
    minimum = static_cast<uint32_t>(packed[j + 4] >> 4) | static_cast<uint32_t>(packed[j] >> 6) << 4;
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// 256 elements in eight groups of 32. Groups 2i and 2i + 1 are the low and high nibbles of bytes 32 i to 32 i + 31;
// with kHighBits, bit g of mask byte j is the fifth bit of element j of group g. Layout: f16 scale, f16 minimum, 12
// bytes of scales, [32 bytes of masks,] 128 bytes of nibbles.
template <bool kHighBits>
void decode_k45(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float minimum = load_f16(block + 2);
  const uint8_t* masks = block + 16;
  const uint8_t* nibbles = block + (kHighBits ? 48 : 16);
  for (uint32_t group = 0; group < 8; ++group) {
    const ScaleAndMinimum packed = unpack_scale(block + 4, group);
    const float group_scale = scale * packed.scale;
    const float group_minimum = minimum * packed.minimum;
    const uint8_t* bytes = nibbles + 32 * (group / 2);
    for (uint32_t j = 0; j < 32; ++j) {
      uint32_t value = group % 2 == 0 ? bytes[j] & 15u : static_cast<uint32_t>(bytes[j]) >> 4;
      if (kHighBits) value |= ((static_cast<uint32_t>(masks[j]) >> group) & 1u) << 4;
      out[32 * group + j] = group_scale * static_cast<float>(value) - group_minimum;
    }
  }
}

// Two bits of 256 elements in 64 bytes: element j of group g of half h has bits 2 g of byte 32 h + j.
template <typename Store>
void for_two_bits(const uint8_t* bytes, Store store) {
  for (uint32_t half = 0; half < 2; ++half) {
    for (uint32_t group = 0; group < 4; ++group) {
      for (uint32_t j = 0; j < 32; ++j) store(128 * half + 32 * group + j, bits(bytes[32 * half + j], 2 * group, 2));
    }
  }
}

}  // namespace

void decode_q4_k(const uint8_t* block, float* out) { decode_k45<false>(block, out); }
void decode_q5_k(const uint8_t* block, float* out) { decode_k45<true>(block, out); }

// 16 groups of 16. Layout: 16 bytes with a 4-bit scale (low) and minimum (high) each, 64 bytes of two bits, f16 scale,
// f16 minimum.
void decode_q2_k(const uint8_t* block, float* out) {
  const float scale = load_f16(block + 80), minimum = load_f16(block + 82);
  for_two_bits(block + 16, [&](uint32_t i, uint32_t value) {
    const float group_scale = scale * static_cast<float>(block[i / 16] & 15);
    const float group_minimum = minimum * static_cast<float>(block[i / 16] >> 4);
    out[i] = group_scale * static_cast<float>(value) - group_minimum;
  });
}

// 16 groups of 16, three bits each. Layout: 32 bytes of third bits (element i in bit i / 32 of byte i mod 32), 64 bytes
// of two bits, 12 bytes of 6-bit scales (four low bits of scales 0 to 7 and 8 to 15 in the halves of 8 bytes, then four
// bytes of upper two bits), f16 scale.
void decode_q3_k(const uint8_t* block, float* out) {
  const float scale = load_f16(block + 108);
  const uint8_t* scales = block + 96;
  float group_scale[16];
  for (uint32_t g = 0; g < 16; ++g) {
    const uint32_t low = bits(scales[g % 8], g / 8 * 4, 4), high = bits(scales[8 + g % 4], g / 4 * 2, 2);
    group_scale[g] = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
  }
  for_two_bits(block + 32, [&](uint32_t i, uint32_t low) {
    const int value = static_cast<int>(low | bits(block[i % 32], i / 32, 1) << 2) - 4;
    out[i] = group_scale[i / 16] * static_cast<float>(value);
  });
}

// 256 elements in two halves of 128, each in four groups of 32: nibbles of 64 bytes (groups 0 and 1 low, 2 and 3 high),
// two more bits from 32 bytes (bits 2 g of byte j), one 8-bit scale for 16 elements.
// Layout: 128 bytes of nibbles, 64 bytes of upper bits, 16 scales, f16 scale.
void decode_q6_k(const uint8_t* block, float* out) {
  const float scale = load_f16(block + 208);
  for (uint32_t half = 0; half < 2; ++half) {
    const uint8_t* nibbles = block + 64 * half;
    const uint8_t* upper = block + 128 + 32 * half;
    const uint8_t* scales = block + 192 + 8 * half;
    for (uint32_t group = 0; group < 4; ++group) {
      for (uint32_t j = 0; j < 32; ++j) {
        const uint32_t byte = nibbles[32 * (group % 2) + j];
        const uint32_t low = group < 2 ? byte & 15u : byte >> 4;
        const uint32_t high = (static_cast<uint32_t>(upper[j]) >> (2 * group)) & 3u;
        const int value = static_cast<int>(low | high << 4) - 32;
        const float group_scale = scale * static_cast<float>(static_cast<int8_t>(scales[2 * group + j / 16]));
        out[128 * half + 32 * group + j] = group_scale * static_cast<float>(value);
      }
    }
  }
}

// Eight groups of 32. Layout: f16 scale, 16 bits with two upper bits of each group's scale, 4 bytes with their lower
// four, 16 bytes of codes for each group (element j low in byte j, element j + 16 high).
void decode_iq4_xs(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const uint32_t upper = load_le<uint16_t>(block + 2);
  for (uint32_t group = 0; group < 8; ++group) {
    const uint32_t packed = nibble(block + 4, group) | bits(upper, 2 * group, 2) << 4;
    const float group_scale = scale * static_cast<float>(static_cast<int>(packed) - 32);
    const uint8_t* codes = block + 8 + 16 * group;
    for (uint32_t j = 0; j < 16; ++j) {
      out[32 * group + j] = group_scale * static_cast<float>(kIq4Values[codes[j] & 15]);
      out[32 * group + 16 + j] = group_scale * static_cast<float>(kIq4Values[codes[j] >> 4]);
    }
  }
}

// Ternary digits, five in a byte as a fraction of 3^5: multiplied by 3^k modulo 256, the byte's digit k is the integer
// part of three times the fraction. Elements 0 to 159 are digits of bytes 0 to 31, elements 160 to 239 of bytes 32 to
// 47, the last 16 of four bytes with four digits each. Layout: 48 + 4 bytes of digits, f16 scale.
void decode_tq1_0(const uint8_t* block, float* out) {
  const float scale = load_f16(block + 52);
  const auto decode = [&](const uint8_t* bytes, uint32_t count, uint32_t digits) {
    uint32_t power = 1;
    for (uint32_t k = 0; k < digits; ++k, power *= 3) {
      for (uint32_t j = 0; j < count; ++j) {
        const uint32_t fraction = (bytes[j] * power) & 255u;
        *out++ = scale * static_cast<float>(static_cast<int>(fraction * 3 >> 8) - 1);
      }
    }
  };
  decode(block, 32, 5);
  decode(block + 32, 16, 5);
  decode(block + 48, 4, 4);
}

// Layout: 64 bytes of two bits, f16 scale.
void decode_tq2_0(const uint8_t* block, float* out) {
  const float scale = load_f16(block + 64);
  for_two_bits(block,
               [&](uint32_t i, uint32_t value) { out[i] = scale * static_cast<float>(static_cast<int>(value) - 1); });
}

}  // namespace nwc::gguf_blocks
