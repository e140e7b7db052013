#include "trainer/data/gguf_dequant.h"

#include <algorithm>
#include <iterator>

#include "runtime/base/half.h"

// Blocks are decoded with the operations and in the order of ggml's reference (value = scale * integer, one product of
// scales first for the K types), so that the floats are the same.

namespace nwc {
namespace {

constexpr uint32_t kSmallBlock = 32;
constexpr uint32_t kSuperBlock = 256;

enum Id : uint32_t {
  kIdQ4_0 = 2,
  kIdQ4_1 = 3,
  kIdQ5_0 = 6,
  kIdQ5_1 = 7,
  kIdQ8_0 = 8,
  kIdQ4_K = 12,
  kIdQ5_K = 13,
  kIdQ6_K = 14,
};

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, Dtype::kF32},
    {1, "F16", 1, 2, Dtype::kF16},
    {kIdQ4_0, "Q4_0", kSmallBlock, 18, Dtype::kF32},
    {kIdQ4_1, "Q4_1", kSmallBlock, 20, Dtype::kF32},
    {kIdQ5_0, "Q5_0", kSmallBlock, 22, Dtype::kF32},
    {kIdQ5_1, "Q5_1", kSmallBlock, 24, Dtype::kF32},
    {kIdQ8_0, "Q8_0", kSmallBlock, 34, Dtype::kF32},
    {kIdQ4_K, "Q4_K", kSuperBlock, 144, Dtype::kF32},
    {kIdQ5_K, "Q5_K", kSuperBlock, 176, Dtype::kF32},
    {kIdQ6_K, "Q6_K", kSuperBlock, 210, Dtype::kF32},
    {24, "I8", 1, 1, Dtype::kI8},
    {25, "I16", 1, 2, Dtype::kI16},
    {26, "I32", 1, 4, Dtype::kI32},
    {27, "I64", 1, 8, Dtype::kI64},
    {28, "F64", 1, 8, Dtype::kF64},
    {30, "BF16", 1, 2, Dtype::kBf16},
};

// Types that exist but cannot be read.
constexpr struct {
  uint32_t id;
  const char* name;
} kOtherNames[] = {{9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
                   {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
                   {29, "IQ1_M"},   {34, "TQ1_0"}, {35, "TQ2_0"},  {39, "MXFP4"}};

float load_f16(const uint8_t* p) { return f16_to_f32(load_le<uint16_t>(p)); }

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

void decode_q8_0(const uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * scale;
}

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

using BlockDecoder = void (*)(const uint8_t* block, float* out);

BlockDecoder find_decoder(uint32_t id) {
  switch (id) {
    case kIdQ4_0: return decode_nibbles<false, false>;
    case kIdQ4_1: return decode_nibbles<true, false>;
    case kIdQ5_0: return decode_nibbles<false, true>;
    case kIdQ5_1: return decode_nibbles<true, true>;
    case kIdQ8_0: return decode_q8_0;
    case kIdQ4_K: return decode_k45<false>;
    case kIdQ5_K: return decode_k45<true>;
    case kIdQ6_K: return decode_q6_k;
    default: return nullptr;
  }
}

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  const auto* it = std::find_if(std::begin(kTypes), std::end(kTypes), [id](const GgmlType& t) { return t.id == id; });
  return it == std::end(kTypes) ? nullptr : it;
}

std::string ggml_type_name(uint32_t id) {
  if (const GgmlType* type = find_ggml_type(id)) return type->name;
  for (const auto& other : kOtherNames) {
    if (other.id == id) return other.name;
  }
  return "type " + std::to_string(id);
}

void dequantize(const GgmlType& type, Bytes blocks, std::span<float> out) {
  const BlockDecoder decode = find_decoder(type.id);
  const size_t count = blocks.size() / type.block_bytes;
  assert(decode != nullptr && blocks.size() == count * type.block_bytes && out.size() == count * type.block_elements);
  for (size_t i = 0; i < count; ++i) {
    decode(blocks.data() + i * type.block_bytes, out.data() + i * type.block_elements);
  }
}

}  // namespace nwc
