#include "trainer/data/gguf_dequant.h"

#include <algorithm>
#include <iterator>

#include "trainer/data/gguf_blocks.h"

namespace nwc {
namespace {

using namespace gguf_blocks;

// README.md lists these types.
constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, Dtype::kF32, nullptr},
    {1, "F16", 1, 2, Dtype::kF16, nullptr},
    {2, "Q4_0", 32, 18, Dtype::kF32, decode_q4_0},
    {3, "Q4_1", 32, 20, Dtype::kF32, decode_q4_1},
    {6, "Q5_0", 32, 22, Dtype::kF32, decode_q5_0, encode_q5_0},
    {7, "Q5_1", 32, 24, Dtype::kF32, decode_q5_1, encode_q5_1},
    {8, "Q8_0", 32, 34, Dtype::kF32, decode_q8_0, encode_q8_0},
    {10, "Q2_K", 256, 84, Dtype::kF32, decode_q2_k},
    {11, "Q3_K", 256, 110, Dtype::kF32, decode_q3_k},
    {12, "Q4_K", 256, 144, Dtype::kF32, decode_q4_k, encode_q4_k},
    {13, "Q5_K", 256, 176, Dtype::kF32, decode_q5_k, encode_q5_k},
    {14, "Q6_K", 256, 210, Dtype::kF32, decode_q6_k, encode_q6_k},
    {16, "IQ2_XXS", 256, 66, Dtype::kF32, decode_iq2_xxs},
    {17, "IQ2_XS", 256, 74, Dtype::kF32, decode_iq2_xs},
    {18, "IQ3_XXS", 256, 98, Dtype::kF32, decode_iq3_xxs},
    {19, "IQ1_S", 256, 50, Dtype::kF32, decode_iq1_s},
    {20, "IQ4_NL", 32, 18, Dtype::kF32, decode_iq4_nl},
    {21, "IQ3_S", 256, 110, Dtype::kF32, decode_iq3_s},
    {22, "IQ2_S", 256, 82, Dtype::kF32, decode_iq2_s},
    {23, "IQ4_XS", 256, 136, Dtype::kF32, decode_iq4_xs},
    {24, "I8", 1, 1, Dtype::kI8, nullptr},
    {25, "I16", 1, 2, Dtype::kI16, nullptr},
    {26, "I32", 1, 4, Dtype::kI32, nullptr},
    {27, "I64", 1, 8, Dtype::kI64, nullptr},
    {28, "F64", 1, 8, Dtype::kF64, nullptr},
    {29, "IQ1_M", 256, 56, Dtype::kF32, decode_iq1_m},
    {30, "BF16", 1, 2, Dtype::kBf16, nullptr},
    {34, "TQ1_0", 256, 54, Dtype::kF32, decode_tq1_0},
    {35, "TQ2_0", 256, 66, Dtype::kF32, decode_tq2_0},
    {39, "MXFP4", 32, 17, Dtype::kF32, decode_mxfp4},
    {40, "NVFP4", 64, 36, Dtype::kF32, decode_nvfp4},
};

// Types that exist but cannot be read.
constexpr struct {
  uint32_t id;
  const char* name;
} kOtherNames[] = {{9, "Q8_1"}, {15, "Q8_K"}, {41, "Q1_0"}};

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  const auto* it = std::find_if(std::begin(kTypes), std::end(kTypes), [id](const GgmlType& t) { return t.id == id; });
  return it == std::end(kTypes) ? nullptr : it;
}

const GgmlType* find_ggml_type(Dtype dtype) {
  const auto* it = std::find_if(std::begin(kTypes), std::end(kTypes),
                                [dtype](const GgmlType& t) { return !t.quantized() && t.dtype == dtype; });
  return it == std::end(kTypes) ? nullptr : it;
}

const GgmlType* find_ggml_type(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kTypes), std::end(kTypes), [name](const GgmlType& t) { return name == t.name; });
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
  const size_t count = blocks.size() / type.block_bytes;
  assert(type.quantized() && blocks.size() == count * type.block_bytes && out.size() == count * type.block_elements);
  for (size_t i = 0; i < count; ++i) {
    type.decode(blocks.data() + i * type.block_bytes, out.data() + i * type.block_elements);
  }
}

}  // namespace nwc
