// Quantizers against blocks that llama.cpp has made (scripts/fixtures/make_quant_fixtures.py), and which tensor gets
// which type.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/data/gguf_builder.h"
#include "trainer/data/gguf_mix.h"
#include "trainer/data/gguf_quantize.h"

namespace nwc {
namespace {

constexpr const char* kTypes[] = {"Q8_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};

std::vector<uint8_t> stored(const GgufFile& file, const std::string& name) {
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name != name) continue;
    std::vector<uint8_t> bytes(tensor.size_bytes);
    EXPECT_TRUE(tensor.reader->read(tensor.offset, bytes).ok());
    return bytes;
  }
  ADD_FAILURE() << name;
  return {};
}

Bytes bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

TEST(GgufQuantize, MakesTheBlocksOfLlamaCpp) {
  auto reader = open_file_reader(NWC_SOURCE_DIR "/tests/fixtures/gguf/quantized.gguf");
  ASSERT_TRUE(reader.ok());
  const auto file = GgufFile::open(std::move(reader).value());
  ASSERT_TRUE(file.ok()) << file.status().message();
  const std::vector<uint8_t> values = stored(*file, "values");
  ASSERT_FALSE(values.empty());
  const auto runner = make_thread_pool(2);
  for (const char* name : kTypes) {
    const GgmlType& type = *find_ggml_type(name);
    const std::vector<uint8_t> expected = stored(*file, name);
    std::vector<uint8_t> blocks(values.size() / sizeof(float) / type.block_elements * type.block_bytes);
    const Status status = quantize(type, 0, values, *runner, blocks);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(blocks.size(), expected.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_EQ(blocks[i], expected[i]) << name << " block " << i / type.block_bytes << " byte "
                                        << i % type.block_bytes;
    }
  }
}

TEST(GgufQuantize, SameBytesAtAnyNumberOfThreads) {
  std::vector<float> values(256 * 300);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i)) * static_cast<float>(i % 97);
  for (const char* name : kTypes) {
    const GgmlType& type = *find_ggml_type(name);
    std::vector<uint8_t> one(values.size() / type.block_elements * type.block_bytes), three(one.size());
    ASSERT_TRUE(quantize(type, 0, bytes_of(values), *make_thread_pool(1), one).ok());
    ASSERT_TRUE(quantize(type, 0, bytes_of(values), *make_thread_pool(3), three).ok());
    EXPECT_EQ(one, three);
  }
}

TEST(GgufQuantize, RefusesWhatBlocksCannotHold) {
  const auto runner = make_thread_pool(3);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float bad[] = {kInfinity, -kInfinity, std::nanf(""), 3e38f};
  for (const char* name : kTypes) {
    const GgmlType& type = *find_ggml_type(name);
    for (const float value : bad) {
      std::vector<float> values(256 * 200, 0.5f);
      values[256 * 150 + 33] = values[256 * 180] = value;
      std::vector<uint8_t> blocks(values.size() / type.block_elements * type.block_bytes);
      const Status status = quantize(type, 1000, bytes_of(values), *runner, blocks);
      EXPECT_EQ(status.code(), StatusCode::kUnsupported) << name << " " << value;
      const std::string says = std::isfinite(value) ? "too large" : "weight 39433 is";
      EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
      EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
    }
  }
}

TEST(GgufMix, KnowsFileTypes) {
  EXPECT_EQ(find_gguf_file_type("i8"), nullptr);
  EXPECT_EQ(find_gguf_file_type("q4_k_m")->id, 15u);
  EXPECT_TRUE(find_gguf_file_type("q6_k")->quantized());
  EXPECT_EQ(find_gguf_file_type("q6_k")->plain_dtype(), Dtype::kF32);
  EXPECT_EQ(find_gguf_file_type("bf16")->plain_dtype(), Dtype::kBf16);
}

/// A model as the rules see it.
class Mix {
 public:
  Mix(const std::string& architecture, uint32_t layers, uint32_t experts = 0) {
    builder_.string("general.architecture", architecture).u32(architecture + ".block_count", layers);
    builder_.u32(architecture + ".attention.head_count", 8).u32(architecture + ".attention.head_count_kv", 1);
    if (experts != 0) builder_.u32(architecture + ".expert_count", experts);
  }
  Mix& add(const std::string& name, std::vector<uint64_t> shape) {
    tensors_.push_back({name, find_ggml_type(Dtype::kF32), std::move(shape)});
    return *this;
  }
  /// For each layer, the last one first: order in the file does not matter.
  Mix& add_layers(int layers, const std::string& name, std::vector<uint64_t> shape) {
    for (int layer = layers; layer-- > 0;) add("blk." + std::to_string(layer) + "." + name, shape);
    return *this;
  }
  std::string type_of(const std::string& file_type, const std::string& name) {
    const auto file = GgufFile::open(make_owned_reader(bytes()));
    EXPECT_TRUE(file.ok()) << file.status().message();
    std::vector<GgufTensorSpec> tensors = tensors_;
    notes.clear();
    EXPECT_TRUE(choose_gguf_types(*find_gguf_file_type(file_type), *file, tensors, &notes).ok());
    for (const GgufTensorSpec& tensor : tensors) {
      if (tensor.name == name) return tensor.type->name;
    }
    return "no " + name;
  }
  std::vector<std::string> notes;

 private:
  std::vector<uint8_t> bytes() {
    const std::string text = builder_.build();
    return {text.begin(), text.end()};
  }
  test::GgufBuilder builder_;
  std::vector<GgufTensorSpec> tensors_;
};

// The expectations are what llama-quantize of October 2026 does with files of these shapes.
TEST(GgufMix, FollowsNamesAndLayers) {
  Mix mix("llama", 16);
  mix.add("token_embd.weight", {300, 256}).add("output.weight", {300, 256}).add("output_norm.weight", {256});
  mix.add_layers(16, "attn_v.weight", {64, 256}).add_layers(16, "attn_q.weight", {256, 256});
  mix.add_layers(16, "ffn_down.weight", {256, 512}).add_layers(16, "attn_norm.weight", {256});
  mix.add("blk.0.ffn_gate_inp.weight", {8, 256}).add("blk.0.attn_q.bias", {2, 256}).add("one_row.weight", {1, 256});
  EXPECT_EQ(mix.type_of("q4_k_m", "token_embd.weight"), "Q4_K");
  EXPECT_EQ(mix.type_of("q4_k_m", "output.weight"), "Q6_K");
  EXPECT_EQ(mix.type_of("q8_0", "output.weight"), "Q8_0");
  EXPECT_EQ(mix.type_of("q5_k_m", "blk.3.attn_q.weight"), "Q5_K");
  for (int layer = 0; layer < 16; ++layer) {
    const bool more = layer < 2 || layer >= 14 || (layer - 2) % 3 == 2;
    const std::string block = "blk." + std::to_string(layer) + ".";
    EXPECT_EQ(mix.type_of("q4_k_m", block + "attn_v.weight"), more ? "Q6_K" : "Q4_K") << layer;
    EXPECT_EQ(mix.type_of("q5_k_m", block + "ffn_down.weight"), more ? "Q6_K" : "Q5_K") << layer;
    EXPECT_EQ(mix.type_of("q6_k", block + "ffn_down.weight"), "Q6_K");
  }
  for (const char* name : {"blk.0.ffn_gate_inp.weight", "blk.0.attn_q.bias", "one_row.weight", "output_norm.weight"}) {
    EXPECT_EQ(mix.type_of("q4_k_m", name), "F32");
  }
  EXPECT_TRUE(mix.notes.empty());
}

TEST(GgufMix, FollowsArchitectureAndExperts) {
  Mix tied("gemma3", 8);
  tied.add("token_embd.weight", {300, 256});
  EXPECT_EQ(tied.type_of("q4_k_m", "token_embd.weight"), "Q6_K");
  Mix large("llama", 80);
  large.add_layers(80, "attn_v.weight", {64, 256});
  EXPECT_EQ(large.type_of("q4_k_m", "blk.10.attn_v.weight"), "Q5_K");
  EXPECT_EQ(large.type_of("q4_k_m", "blk.12.attn_v.weight"), "Q6_K");
  Mix falcon("falcon", 32);
  falcon.add_layers(32, "ffn_down.weight", {64, 256}).add("output.weight", {300, 256});
  EXPECT_EQ(falcon.type_of("q4_k_m", "blk.1.ffn_down.weight"), "Q6_K");
  EXPECT_EQ(falcon.type_of("q4_k_m", "blk.3.ffn_down.weight"), "Q5_K");
  EXPECT_EQ(falcon.type_of("q4_k_m", "blk.4.ffn_down.weight"), "Q4_K");
  EXPECT_EQ(falcon.type_of("q4_k_m", "output.weight"), "Q8_0");
  Mix eight("llama", 16, 8);
  eight.add_layers(16, "ffn_down_shexp.weight", {64, 256}).add_layers(16, "ffn_down_exps.weight", {8, 64, 256});
  eight.add_layers(16, "attn_v.weight", {64, 256}).add_layers(16, "attn_output.weight", {64, 256});
  EXPECT_EQ(eight.type_of("q4_k_m", "blk.4.attn_v.weight"), "Q8_0");
  EXPECT_EQ(eight.type_of("q4_k_m", "blk.4.attn_output.weight"), "Q5_K");
  EXPECT_EQ(eight.type_of("q4_k_m", "blk.4.ffn_down_exps.weight"), "Q6_K");
  EXPECT_EQ(eight.type_of("q4_k_m", "blk.4.ffn_down_shexp.weight"), "Q6_K");
  EXPECT_EQ(eight.type_of("q4_k_m", "blk.5.ffn_down_exps.weight"), "Q4_K");
}

TEST(GgufMix, RowsThatAreNoWholeBlocksGetAnotherType) {
  Mix mix("llama", 16);
  mix.add("blk.3.attn_q.weight", {64, 576}).add("blk.3.attn_k.weight", {64, 576}).add("blk.0.attn_v.weight", {64, 576});
  mix.add("blk.3.ffn_up.weight", {64, 100});
  EXPECT_EQ(mix.type_of("q4_k_m", "blk.3.attn_q.weight"), "Q5_0");
  EXPECT_EQ(mix.type_of("q4_k_m", "blk.3.ffn_up.weight"), "F16");
  EXPECT_EQ(mix.type_of("q8_0", "blk.3.ffn_up.weight"), "F16");
  EXPECT_EQ(mix.type_of("q6_k", "blk.3.attn_q.weight"), "Q8_0");
  EXPECT_EQ(mix.type_of("q5_k_m", "blk.3.attn_q.weight"), "Q5_1");
  ASSERT_EQ(mix.notes.size(), 3u);
  EXPECT_EQ(mix.notes[1],
            "2 tensors are Q5_1 instead of Q5_K, as llama.cpp has it: rows are not multiples of 256 (tensor "
            "\"blk.3.attn_k.weight\": 576)");
}

}  // namespace
}  // namespace nwc
