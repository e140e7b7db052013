// Mixtures of experts in GGUF files that are right, or wrong.
#include <gtest/gtest.h>

#include "tests/data/gguf_builder.h"
#include "trainer/data/gguf_source.h"

namespace nwc {
namespace {

using test::GgufBuilder;

Result<std::unique_ptr<ModelSource>> open(const GgufBuilder& builder) {
  const std::string bytes = builder.build();
  NWC_ASSIGN_OR_RETURN(GgufFile file,
                       GgufFile::open(make_owned_reader(std::vector<uint8_t>(bytes.begin(), bytes.end()))));
  return open_gguf(std::move(file));
}

struct Mixture {
  std::string architecture = "llama";
  uint32_t experts = 3, used = 2;
  uint64_t stored_experts = 3, router_width = 8, router_rows = 3, inner = 12;

  GgufBuilder build() const {
    GgufBuilder b;
    const std::string p = architecture + ".";
    b.string("general.architecture", architecture).u32(p + "block_count", 1).u32(p + "context_length", 64);
    b.u32(p + "embedding_length", 8).u32(p + "feed_forward_length", 12).u32(p + "attention.head_count", 2);
    b.f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
    b.u32(p + "expert_count", experts).u32(p + "expert_used_count", used);
    b.f32_tensor("token_embd.weight", {8, 5}).f32_tensor("output.weight", {8, 5});
    for (const char* norm : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"})
      b.f32_tensor(std::string(norm) + ".weight", {8});
    for (const char* part : {"q", "k", "v", "output"})
      b.f32_tensor(std::string("blk.0.attn_") + part + ".weight", {8, 8});
    b.f32_tensor("blk.0.ffn_gate_inp.weight", {router_width, router_rows});
    std::vector<float> gate(8 * inner * stored_experts);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = static_cast<float>(i);
    b.tensor("blk.0.ffn_gate_exps.weight", {8, inner, stored_experts}, 0,
             std::string(reinterpret_cast<const char*>(gate.data()), gate.size() * sizeof(float)));
    b.f32_tensor("blk.0.ffn_up_exps.weight", {8, inner, stored_experts});
    b.f32_tensor("blk.0.ffn_down_exps.weight", {inner, 8, stored_experts});
    return b;
  }
};

/// The weights can be coded all the same, under the file's own names.
void expect_left_out(const GgufBuilder& builder, const std::vector<std::string>& parts) {
  const auto source = open(builder);
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_FALSE((*source)->model()) << parts.front();
  const std::string why = join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  for (const std::string& part : parts) EXPECT_NE(why.find(part), std::string::npos) << why << " lacks " << part;
  EXPECT_TRUE((*source)->find("blk.0.ffn_gate_exps.weight"));
}

void expect_corrupt(const GgufBuilder& builder, const std::vector<std::string>& parts) {
  const auto source = open(builder);
  ASSERT_FALSE(source.ok()) << parts.front();
  EXPECT_EQ(source.status().code(), StatusCode::kCorrupt);
  for (const std::string& part : parts)
    EXPECT_NE(source.status().message().find(part), std::string::npos) << source.status().message();
}

TEST(GgufExperts, AreTensorsOfTheirOwn) {
  const auto source = open(Mixture().build());
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model()) << join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  const ExpertSpec& experts = (*source)->model()->block().experts;
  EXPECT_EQ(experts.num_experts, 3u);
  EXPECT_EQ(experts.per_token, 2u);
  EXPECT_EQ(experts.intermediate_size, 12u);
  EXPECT_TRUE(experts.normalized);
  const auto second = (*source)->find("model.layers.0.block_sparse_moe.experts.1.w1.weight");
  ASSERT_TRUE(second);
  EXPECT_EQ((*source)->tensors()[*second].shape, (std::vector<uint64_t>{12, 8}));
  EXPECT_EQ((*source)->tensors()[*second].stored_bytes, 12u * 8 * 4);
  const auto values = (*source)->read_f32(*second);
  ASSERT_TRUE(values.ok());
  EXPECT_EQ((*values)[0], 96.0f);
  EXPECT_EQ((*values)[95], 191.0f);
  EXPECT_TRUE((*source)->find("model.layers.0.block_sparse_moe.gate.weight"));
}

TEST(GgufExperts, KeysSayHowTheRouterWeighs) {
  GgufBuilder b = Mixture().build();
  b.boolean("llama.expert_weights_norm", false).f32("llama.expert_weights_scale", 2.5f);
  b.u32("llama.expert_gating_func", 2).u32("llama.expert_feed_forward_length", 12);
  const auto source = open(b);
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model());
  const ExpertSpec& experts = (*source)->model()->block().experts;
  EXPECT_FALSE(experts.normalized);
  EXPECT_EQ(experts.scale, 2.5f);
  EXPECT_EQ(experts.router, RouterKind::kSigmoid);
}

// GPT-OSS's type: 32 weights of 4 bits with one exponent.
TEST(GgufExperts, QuantizedStacksAreTakenApart) {
  GgufBuilder b;
  const std::string p = "llama.";
  b.string("general.architecture", "llama").u32(p + "block_count", 1).u32(p + "context_length", 64);
  b.u32(p + "embedding_length", 32).u32(p + "feed_forward_length", 32).u32(p + "attention.head_count", 2);
  b.f32(p + "attention.layer_norm_rms_epsilon", 1e-5f).u32(p + "expert_count", 2).u32(p + "expert_used_count", 1);
  b.f32_tensor("token_embd.weight", {32, 5});
  for (const char* norm : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"})
    b.f32_tensor(std::string(norm) + ".weight", {32});
  for (const char* part : {"q", "k", "v", "output"})
    b.f32_tensor(std::string("blk.0.attn_") + part + ".weight", {32, 32});
  b.f32_tensor("blk.0.ffn_gate_inp.weight", {32, 2});
  std::string blocks;
  for (int row = 0; row < 64; ++row) {
    blocks += static_cast<char>(row < 32 ? 128 : 129);  // 2 and 4
    blocks += std::string(16, '\x22');                  // 1 each
  }
  for (const char* part : {"gate", "up", "down"})
    b.tensor(std::string("blk.0.ffn_") + part + "_exps.weight", {32, 32, 2}, 39, blocks);
  const auto source = open(b);
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model()) << join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  for (uint32_t expert = 0; expert < 2; ++expert) {
    const auto at = (*source)->find("model.layers.0.block_sparse_moe.experts." + std::to_string(expert) + ".w2.weight");
    ASSERT_TRUE(at);
    EXPECT_EQ((*source)->tensors()[*at].stored_type, "MXFP4");
    EXPECT_EQ((*source)->tensors()[*at].stored_bytes, 32u * 17);
    const auto values = (*source)->read_f32(*at);
    ASSERT_TRUE(values.ok());
    for (const float v : *values) ASSERT_EQ(v, expert == 0 ? 2.0f : 4.0f);
  }
}

TEST(GgufExperts, FusedGateAndUpAreTakenApart) {
  GgufBuilder b;
  Mixture m;
  std::vector<float> both(8 * 24 * 3);
  for (size_t i = 0; i < both.size(); ++i) both[i] = static_cast<float>(i);
  const std::string p = "qwen3moe.";
  b.string("general.architecture", "qwen3moe").u32(p + "block_count", 1).u32(p + "context_length", 64);
  b.u32(p + "embedding_length", 8).u32(p + "feed_forward_length", 40).u32(p + "attention.head_count", 2);
  b.f32(p + "attention.layer_norm_rms_epsilon", 1e-5f).u32(p + "expert_feed_forward_length", 12);
  b.u32(p + "expert_count", 3).u32(p + "expert_used_count", 1);
  b.f32_tensor("token_embd.weight", {8, 5});
  for (const char* norm : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"})
    b.f32_tensor(std::string(norm) + ".weight", {8});
  for (const char* norm : {"blk.0.attn_q_norm", "blk.0.attn_k_norm"}) b.f32_tensor(std::string(norm) + ".weight", {4});
  for (const char* part : {"q", "k", "v", "output"})
    b.f32_tensor(std::string("blk.0.attn_") + part + ".weight", {8, 8});
  b.f32_tensor("blk.0.ffn_gate_inp.weight", {8, 3}).f32_tensor("blk.0.ffn_down_exps.weight", {12, 8, 3});
  b.tensor("blk.0.ffn_gate_up_exps.weight", {8, 24, 3}, 0,
           std::string(reinterpret_cast<const char*>(both.data()), both.size() * sizeof(float)));
  const auto source = open(b);
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model()) << join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  const auto up = (*source)->find("blk.0.ffn_up_exps.2.weight");
  ASSERT_TRUE(up);
  const auto values = (*source)->read_f32(*up);
  ASSERT_TRUE(values.ok());
  EXPECT_EQ((*values)[0], static_cast<float>(2 * 192 + 96));
}

TEST(GgufExperts, CountsThatDisagreeAreNamed) {
  Mixture m;
  m.stored_experts = 4;
  expect_left_out(m.build(), {"blk.0.ffn_gate_exps.weight", "[4, 12, 8]", "3 experts"});
  m = Mixture();
  m.router_rows = 4;
  expect_left_out(m.build(), {"block_sparse_moe.gate.weight", "[4, 8]", "[3, 8]"});
  m = Mixture();
  m.router_width = 9;
  expect_left_out(m.build(), {"block_sparse_moe.gate.weight", "[3, 9]"});
  m = Mixture();
  m.inner = 10;
  expect_left_out(m.build(), {"experts.0.w1.weight", "[10, 8]", "[12, 8]"});
}

TEST(GgufExperts, ImpossibleKeysAreRefused) {
  Mixture m;
  m.used = 4;
  expect_corrupt(m.build(), {"llama.expert_used_count", "4", "expert_count\" is 3"});
  m.used = 0;
  expect_corrupt(m.build(), {"llama.expert_used_count"});
  m = Mixture();
  m.architecture = "qwen3moe";
  m.experts = 0;
  expect_corrupt(m.build(), {"qwen3moe.expert_count"});
  m = Mixture();
  m.experts = 1u << 30;
  m.used = 2;
  EXPECT_FALSE(open(m.build()).ok());  // above the limit of a description
  m = Mixture();
  m.architecture = "qwen2";
  expect_left_out(m.build(), {"qwen2.expert_count", "mixture of experts"});
  expect_left_out(Mixture().build().u32("llama.expert_gating_func", 9), {"expert_gating_func", "9"});
  expect_left_out(Mixture().build().u32("llama.expert_group_count", 4), {"expert_group_count"});
  expect_left_out(Mixture().build().f32_tensor("blk.0.ffn_up_exps.scale", {3}), {"blk.0.ffn_up_exps.scale"});
}

TEST(GgufExperts, AStackCutShortIsTruncated) {
  std::string bytes = Mixture().build().build();
  bytes.resize(bytes.size() - 12 * 8 * 4);
  const auto file = GgufFile::open(make_owned_reader(std::vector<uint8_t>(bytes.begin(), bytes.end())));
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), StatusCode::kTruncated);
  EXPECT_NE(file.status().message().find("blk.0.ffn_down_exps.weight"), std::string::npos) << file.status().message();
}

}  // namespace
}  // namespace nwc
