#include "trainer/data/gguf_blocks.h"

namespace nwc::gguf_blocks {
namespace {

#include "trainer/data/gguf_grids.inc"

// Values of the two bits of IQ2's grids, the three of IQ3_XXS's and of IQ3_S's.
constexpr uint8_t kIq2Values[4] = {8, 25, 43, 0};
constexpr uint8_t kIq3XxsValues[8] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr uint8_t kIq3SValues[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// Seven signs are stored; the eighth makes the number of negative ones even.
uint32_t eight_signs(uint32_t seven) { return seven | static_cast<uint32_t>(std::popcount(seven) & 1) << 7; }

float with_sign(float v, uint32_t signs, uint32_t i) { return bits(signs, i, 1) != 0 ? -v : v; }

// Eight elements from one vector: two bits each.
void store_iq2(uint32_t vector, float scale, uint32_t signs, float* out) {
  for (uint32_t i = 0; i < 8; ++i) {
    out[i] = with_sign(scale * static_cast<float>(kIq2Values[bits(vector, 2 * i, 2)]), signs, i);
  }
}

// Eight elements from two vectors: a nibble each.
void store_iq3(uint32_t first, uint32_t second, const uint8_t* values, float scale, uint32_t signs, float* out) {
  const uint32_t both = first | second << 16;
  for (uint32_t i = 0; i < 8; ++i) {
    out[i] = with_sign(scale * static_cast<float>(values[bits(both, 4 * i, 3)]), signs, i);
  }
}

// Eight elements -1, 0 or 1, moved by 1/8 up or down.
void store_iq1(uint32_t vector, float scale, bool down, float* out) {
  const float delta = down ? -0.125f : 0.125f;
  for (uint32_t i = 0; i < 8; ++i) {
    out[i] = scale * (static_cast<float>(static_cast<int>(bits(vector, 2 * i, 2)) - 1) + delta);
  }
}

float iq2_scale(float scale, uint32_t four_bits) { return scale * (0.5f + static_cast<float>(four_bits)) * 0.25f; }

}  // namespace

// Eight groups of 32. Layout: f16 scale, for each group four bytes of vectors, and 32 bits: four times seven signs,
// then the group's scale.
void decode_iq2_xxs(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t group = 0; group < 8; ++group) {
    const uint8_t* at = block + 2 + 8 * group;
    const auto rest = load_le<uint32_t>(at + 4);
    const float group_scale = iq2_scale(scale, rest >> 28);
    for (uint32_t v = 0; v < 4; ++v) {
      store_iq2(kIq2XxsGrid[at[v]], group_scale, eight_signs(bits(rest, 7 * v, 7)), out + 32 * group + 8 * v);
    }
  }
}

// 16 groups of 16. Layout: f16 scale, 32 times 16 bits (nine of a vector, seven signs), 16 nibbles of scales.
void decode_iq2_xs(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t v = 0; v < 32; ++v) {
    const uint32_t code = load_le<uint16_t>(block + 2 + 2 * v);
    const float group_scale = iq2_scale(scale, nibble(block + 66, v / 2));
    store_iq2(kIq2XsGrid[bits(code, 0, 9)], group_scale, eight_signs(code >> 9), out + 8 * v);
  }
}

// 16 groups of 16. Layout: f16 scale, 32 bytes of vectors, 32 bytes of signs, two upper bits for each vector, 16
// nibbles of scales.
void decode_iq2_s(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t v = 0; v < 32; ++v) {
    const uint32_t index = block[2 + v] | bits(block[66 + v / 4], 2 * (v % 4), 2) << 8;
    const float group_scale = iq2_scale(scale, nibble(block + 74, v / 2));
    store_iq2(kIq2SGrid[index], group_scale, block[34 + v], out + 8 * v);
  }
}

// Eight groups of 32. Layout: f16 scale, 64 bytes of vectors of four, 32 bits for each group: four times seven signs,
// then the group's scale.
void decode_iq3_xxs(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t v = 0; v < 32; ++v) {
    const auto rest = load_le<uint32_t>(block + 66 + v / 4 * 4);
    const float group_scale = scale * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
    const uint8_t* at = block + 2 + 2 * v;
    store_iq3(kIq3XxsGrid[at[0]], kIq3XxsGrid[at[1]], kIq3XxsValues, group_scale,
              eight_signs(bits(rest, 7 * (v % 4), 7)), out + 8 * v);
  }
}

// Eight groups of 32. Layout: f16 scale, 64 bytes of vectors of four, an upper bit for each, 32 bytes of signs, eight
// nibbles of scales.
void decode_iq3_s(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t v = 0; v < 32; ++v) {
    const float group_scale = scale * static_cast<float>(1 + 2 * nibble(block + 106, v / 4));
    const uint8_t* at = block + 2 + 2 * v;
    const uint32_t upper = bits(block[66 + v / 4], 2 * (v % 4), 2);
    store_iq3(kIq3SGrid[at[0] | (upper & 1) << 8], kIq3SGrid[at[1] | (upper & 2) << 7], kIq3SValues, group_scale,
              block[74 + v], out + 8 * v);
  }
}

// Eight groups of 32. Layout: f16 scale, 32 bytes of vectors, 16 bits for each group: three upper bits of each vector,
// three of the scale, one that says whether the group is moved down.
void decode_iq1_s(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t v = 0; v < 32; ++v) {
    const uint32_t rest = load_le<uint16_t>(block + 34 + v / 4 * 2);
    const float group_scale = scale * static_cast<float>(2 * bits(rest, 12, 3) + 1);
    const uint32_t index = block[2 + v] | bits(rest, 3 * (v % 4), 3) << 8;
    store_iq1(kIq1Grid[index], group_scale, rest >> 15 != 0, out + 8 * v);
  }
}

// 16 groups of 16. Layout: 32 bytes of vectors, a nibble for each (three upper bits, one that says whether it is moved
// down), four times 16 bits: the scales of four groups, three bits each, and four bits of the block's f16 scale.
void decode_iq1_m(const uint8_t* block, float* out) {
  const uint8_t* scales = block + 48;
  uint32_t scale_bits = 0;
  for (uint32_t i = 0; i < 4; ++i)
    scale_bits |= static_cast<uint32_t>(load_le<uint16_t>(scales + 2 * i) >> 12) << (4 * i);
  const float scale = f16_to_f32(static_cast<uint16_t>(scale_bits));
  for (uint32_t v = 0; v < 32; ++v) {
    const uint32_t group = v / 2;
    const uint32_t packed = bits(load_le<uint16_t>(scales + group / 4 * 2), 3 * (group % 4), 3);
    const uint32_t rest = nibble(block + 32, v);
    store_iq1(kIq1Grid[block[v] | (rest & 7) << 8], scale * static_cast<float>(2 * packed + 1), rest >> 3 != 0,
              out + 8 * v);
  }
}

}  // namespace nwc::gguf_blocks
