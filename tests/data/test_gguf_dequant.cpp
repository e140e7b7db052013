#include <gtest/gtest.h>

#include <bit>

#include "trainer/data/gguf_dequant.h"
#include "trainer/data/model_source.h"

namespace nwc {
namespace {

// Written by scripts/fixtures/make_gguf_fixtures.py: blocks of random bytes and what an independent implementation
// makes of them.
TEST(GgufDequant, AgreesWithAnotherImplementation) {
  const auto source = open_model_source(NWC_SOURCE_DIR "/tests/fixtures/gguf/types.gguf");
  ASSERT_TRUE(source.ok()) << source.status().message();
  for (uint32_t id = 0; id < 64; ++id) {
    if (find_ggml_type(id) == nullptr || !find_ggml_type(id)->quantized()) continue;
    const std::string type = find_ggml_type(id)->name;
    const auto tensor = (*source)->find(type);
    const auto expected_tensor = (*source)->find(type + ".expected");
    ASSERT_TRUE(tensor && expected_tensor) << type;
    EXPECT_EQ((*source)->tensors()[*tensor].stored_type, type);
    EXPECT_EQ((*source)->tensors()[*tensor].dtype, Dtype::kF32);
    EXPECT_EQ((*source)->tensors()[*tensor].shape, (*source)->tensors()[*expected_tensor].shape);
    const auto values = (*source)->read_f32(*tensor);
    const auto expected = (*source)->read_f32(*expected_tensor);
    ASSERT_TRUE(values.ok() && expected.ok()) << type;
    for (size_t i = 0; i < values->size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>((*values)[i] + 0.f), std::bit_cast<uint32_t>((*expected)[i] + 0.f))
          << type << " element " << i << ": " << (*values)[i] << " instead of " << (*expected)[i];
    }
  }
}

TEST(GgufDequant, KnowsTypes) {
  ASSERT_NE(find_ggml_type(3), nullptr);
  EXPECT_STREQ(find_ggml_type(3)->name, "Q4_1");
  EXPECT_TRUE(find_ggml_type(3)->quantized());
  EXPECT_FALSE(find_ggml_type(30)->quantized());
  EXPECT_EQ(find_ggml_type(30)->dtype, Dtype::kBf16);
  size_t quantized = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    if (find_ggml_type(id) != nullptr && find_ggml_type(id)->quantized()) ++quantized;
  }
  EXPECT_EQ(quantized, 23u) << "all that the Python package gguf 0.19 can dequantize";
  EXPECT_EQ(find_ggml_type(9), nullptr);
  EXPECT_EQ(ggml_type_name(9), "Q8_1");
  EXPECT_EQ(ggml_type_name(77), "type 77");
}

}  // namespace
}  // namespace nwc
