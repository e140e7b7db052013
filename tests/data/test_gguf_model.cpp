#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model/tokenizer.h"
#include "tests/data/gguf_builder.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_source.h"
#include "trainer/data/gguf_tokenizer.h"

namespace nwc {
namespace {

using test::GgufBuilder;

Result<std::unique_ptr<ModelSource>> open(const GgufBuilder& builder) {
  const std::string bytes = builder.build();
  NWC_ASSIGN_OR_RETURN(GgufFile file,
                       GgufFile::open(make_owned_reader(std::vector<uint8_t>(bytes.begin(), bytes.end()))));
  return open_gguf(std::move(file));
}

GgufBuilder model_keys(uint32_t blocks = 1) {
  GgufBuilder builder;
  builder.string("general.architecture", "llama").u32("llama.block_count", blocks).u32("llama.context_length", 64);
  builder.u32("llama.embedding_length", 8).u32("llama.feed_forward_length", 12).u32("llama.attention.head_count", 2);
  builder.u32("llama.attention.head_count_kv", 1).f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return builder;
}

GgufBuilder& add_tensors(GgufBuilder& builder) {
  builder.f32_tensor("token_embd.weight", {8, 5}).f32_tensor("output_norm.weight", {8});
  for (const char* name : {"attn_norm", "ffn_norm"}) builder.f32_tensor(std::string("blk.0.") + name + ".weight", {8});
  builder.f32_tensor("blk.0.attn_q.weight", {8, 8}).f32_tensor("blk.0.attn_k.weight", {8, 4});
  builder.f32_tensor("blk.0.attn_v.weight", {8, 4}).f32_tensor("blk.0.attn_output.weight", {8, 8});
  builder.f32_tensor("blk.0.ffn_gate.weight", {8, 12}).f32_tensor("blk.0.ffn_up.weight", {8, 12});
  return builder.f32_tensor("blk.0.ffn_down.weight", {12, 8});
}

// Written by scripts/fixtures/make_gguf_fixtures.py with an independent writer.
TEST(GgufModel, OpensWhatAConverterWrites) {
  const auto opened = open_model_source(NWC_SOURCE_DIR "/tests/fixtures/gguf/tiny-llama.gguf");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const ModelSource& source = **opened;
  EXPECT_TRUE(source.notes().empty());
  ASSERT_TRUE(source.model());
  const ModelRecord& model = *source.model();
  EXPECT_EQ(model.vocab_size, 261u);
  EXPECT_EQ(model.hidden_size, 64u);
  EXPECT_EQ(model.block().intermediate_size, 96u);
  EXPECT_EQ(model.num_layers, 2u);
  EXPECT_EQ(model.block().num_heads, 4u);
  EXPECT_EQ(model.block().num_kv_heads, 2u);
  EXPECT_EQ(model.block().head_dim, 32u);
  EXPECT_EQ(model.max_positions, 4096u);
  EXPECT_FLOAT_EQ(model.block().norm_eps, 1e-5f);
  EXPECT_EQ(model.block().rope.theta, 500000.f);
  EXPECT_EQ(model.block().rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(model.block().rope.factor, 8.f);
  EXPECT_EQ(model.block().rope.low_freq_factor, 1.f);
  EXPECT_EQ(model.block().rope.high_freq_factor, 4.f);
  EXPECT_EQ(model.block().rope.original_max_positions, 8192u);
  EXPECT_TRUE(model.tied_embeddings);
  EXPECT_EQ(model.eos_ids, std::vector<uint32_t>{260});
  EXPECT_FALSE(source.find("rope_freqs.weight"));

  // In Hugging Face's order the value at (row, column) is row + column / 64.
  for (const std::string name : {"q_proj", "k_proj"}) {
    const auto tensor = source.find("model.layers.1.self_attn." + name + ".weight");
    ASSERT_TRUE(tensor) << name;
    EXPECT_EQ(source.tensors()[*tensor].dtype, Dtype::kF16);
    const auto values = source.read_f32(*tensor);
    ASSERT_TRUE(values.ok());
    for (size_t row = 0; row < source.tensors()[*tensor].shape[0]; ++row) {
      EXPECT_NEAR((*values)[row * 64], static_cast<double>(row), 1e-3) << name << " row " << row;
      EXPECT_NEAR((*values)[row * 64 + 32], static_cast<double>(row) + 0.5, 0.07) << name << " row " << row;
    }
  }

  ASSERT_TRUE(source.tokenizer());
  const TokenizerRecord& tokenizer = *source.tokenizer();
  EXPECT_EQ(tokenizer.kind, TokenizerKind::kByteLevelBpe);
  EXPECT_EQ(tokenizer.pre_tokenizer, PreTokenizer::kLlama3);
  EXPECT_TRUE(tokenizer.ignore_merges);
  EXPECT_TRUE(tokenizer.add_bos);
  EXPECT_EQ(tokenizer.bos_id, 259u);
  ASSERT_EQ(tokenizer.tokens.size(), 261u);
  for (size_t byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer.tokens[byte].bytes, std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer.tokens[258].bytes, " the");
  EXPECT_EQ(tokenizer.tokens[260].bytes, "<|end|>");
  EXPECT_EQ(tokenizer.tokens[260].type, TokenType::kControl);
  ASSERT_EQ(tokenizer.merges.size(), 3u);
  EXPECT_EQ(tokenizer.merges[2].left, 256u);
  EXPECT_EQ(tokenizer.merges[2].right, 257u);
  EXPECT_EQ(tokenizer.merges[2].result, 258u);
}

TEST(GgufModel, TranslatesNames) {
  EXPECT_EQ(translate_gguf_name("token_embd.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(translate_gguf_name("output.weight"), "lm_head.weight");
  EXPECT_EQ(translate_gguf_name("blk.12.ffn_down.weight"), "model.layers.12.mlp.down_proj.weight");
  EXPECT_EQ(translate_gguf_name("blk.0.attn_q.bias"), "model.layers.0.self_attn.q_proj.bias");
  for (const char* name :
       {"blk.x.ffn_down.weight", "blk..ffn_down.weight", "blk.0", "blk.0.other.weight", "", "blk."}) {
    EXPECT_EQ(translate_gguf_name(name), name);
  }
}

TEST(GgufModel, NotesWhatTheEngineLacks) {
  const auto expect_note = [](GgufBuilder builder, const std::string& part) {
    const auto source = open(add_tensors(builder));
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_FALSE((*source)->model()) << part;
    const std::string why = join_notes((*source)->notes(), NoteKind::kModelLeftOut);
    EXPECT_NE(why.find(part), std::string::npos) << why;
    EXPECT_TRUE((*source)->find("blk.0.attn_q.weight")) << "names are left alone without a model";
  };
  expect_note(GgufBuilder().string("general.architecture", "gemma"), "gemma");
  expect_note(GgufBuilder(), "architecture \"\"");
  expect_note(
      model_keys().u32("llama.expert_count", 8).u32("llama.expert_group_count", 2).u32("llama.expert_used_count", 2),
      "experts");
  expect_note(model_keys().u32("llama.rope.dimension_count", 2), "part of the head");
  expect_note(model_keys().string("llama.rope.scaling.type", "ntk"), "\"ntk\"");
  expect_note(model_keys().u32("llama.attention.value_length", 2), "different lengths");
  expect_note(model_keys().f32_tensor("rope_freqs.weight", {2}, 2.f).f32("llama.rope.scale_linear", 2), "together");

  GgufBuilder per_layer;
  per_layer.string("general.architecture", "llama").integers("llama.block_count", {1});
  expect_note(per_layer, "differ from each other");
}

// The tensors are all there, they only are no such model.
TEST(GgufModel, NotesTensorsOfOtherShapes) {
  GgufBuilder head = model_keys();
  add_tensors(head).f32_tensor("output.weight", {8, 4});
  for (const auto& [builder, part] :
       {std::pair{head, "lm_head.weight"}, {model_keys().f32_tensor("token_embd.weight", {9, 5}), "[5, 9]"}}) {
    const auto source = open(builder);
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_FALSE((*source)->model());
    const std::string why = join_notes((*source)->notes(), NoteKind::kModelLeftOut);
    EXPECT_NE(why.find(part), std::string::npos) << why;
  }
}

TEST(GgufModel, RejectsContradictions) {
  const auto expect_corrupt = [](const GgufBuilder& builder, const std::string& part) {
    const auto source = open(builder);
    ASSERT_FALSE(source.ok()) << part;
    EXPECT_EQ(source.status().code(), StatusCode::kCorrupt);
    EXPECT_NE(source.status().message().find(part), std::string::npos) << source.status().message();
  };
  expect_corrupt(model_keys(), "token_embd.weight");
  expect_corrupt(model_keys().f32_tensor("token_embd.weight", {8, 5}), "is missing");
  expect_corrupt(GgufBuilder().string("general.architecture", "llama"), "llama.block_count");
  GgufBuilder builder = model_keys();
  expect_corrupt(add_tensors(builder).f32_tensor("model.norm.weight", {8}), "twice");
  builder = model_keys().f32("llama.rope.scaling.factor", -1).string("llama.rope.scaling.type", "linear");
  expect_corrupt(add_tensors(builder), "positive");
  builder = model_keys();
  expect_corrupt(add_tensors(builder).f32_tensor("rope_freqs.weight", {3}), "rope_freqs");
  builder = model_keys();
  expect_corrupt(add_tensors(builder).f32_tensor("rope_factors_long.weight", {2}, 2.f), "rope_factors_short");
  builder = model_keys().u32("llama.rope.scaling.original_context_length", 0);
  expect_corrupt(add_tensors(builder), "original_context_length");
  builder = model_keys();
  expect_corrupt(add_tensors(builder).f32_tensor("blk.0.attn_q.bias", {8}), "attn");  // k and v have none
}

TEST(GgufModel, AnOddTokenizerDoesNotStopTheWeights) {
  const auto tokens = [] {
    GgufBuilder builder = model_keys();
    return add_tensors(builder).string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a", "b"});
  };
  for (const auto& [builder, part] : std::vector<std::pair<GgufBuilder, std::string>>{
           {tokens().string("tokenizer.ggml.pre", "gpt-2").u32("tokenizer.ggml.bos_token_id", 9), "bos"},
           {tokens().string("tokenizer.ggml.pre", "gpt-2").strings("tokenizer.ggml.merges", {"x y"}), "merge"},
           {tokens().string("tokenizer.ggml.pre", "gpt-2").integers("tokenizer.ggml.token_type", {1}), "token_type"},
           {tokens().string("tokenizer.ggml.pre", "unheard-of"), "unheard-of"}}) {
    const auto source = open(builder);
    ASSERT_TRUE(source.ok()) << part << ": " << source.status().message();
    EXPECT_TRUE((*source)->model()) << part;
    EXPECT_FALSE((*source)->tokenizer()) << part;
    const std::string note = join_notes((*source)->notes(), NoteKind::kTokenizerLeftOut);
    EXPECT_NE(note.find(part), std::string::npos) << note;
  }
}

TEST(GgufModel, ReadsLinearScalingAndUntiedHead) {
  GgufBuilder builder = model_keys().f32("llama.rope.scaling.factor", 4).string("llama.rope.scaling.type", "linear");
  const auto source = open(add_tensors(builder).f32_tensor("output.weight", {8, 5}));
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model()) << join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  EXPECT_EQ((*source)->model()->block().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ((*source)->model()->block().rope.factor, 4.f);
  EXPECT_FALSE((*source)->model()->tied_embeddings);
  EXPECT_TRUE((*source)->find("lm_head.weight"));
  EXPECT_EQ((*source)->model()->block().head_dim, 4u);
}

TEST(GgufModel, SaysThatThereAreMoreBlocksThanItsCount) {
  GgufBuilder builder = model_keys();
  const auto source = open(add_tensors(builder).f32_tensor("blk.1.attn_q.weight", {8, 8}));
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_TRUE((*source)->model());
  const std::string why = join_notes((*source)->notes(), NoteKind::kRepaired);
  EXPECT_NE(why.find("block_count says 1 layers, but the weights have 2"), std::string::npos) << why;
}

// The weights are kept; no list of as many layers is made.
TEST(GgufModel, MoreBlocksThanARecordHasAreRefusedByName) {
  GgufBuilder builder = model_keys(4'000'000'000);
  const auto source = open(add_tensors(builder));
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_FALSE((*source)->model());
  const std::string why = join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  EXPECT_NE(why.find("\"llama.block_count\" is 4000000000, the limit is 4096"), std::string::npos) << why;
}

TEST(GgufModel, NaNIsRefusedByName) {
  GgufBuilder builder = model_keys();
  const auto source = open(add_tensors(builder).f32_tensor("spare", {4}, std::nanf("")));
  ASSERT_TRUE(source.ok()) << source.status().message();
  const Status status = (*source)->read_f32((*source)->find("spare").value()).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("\"spare\" has a NaN"), std::string::npos) << status.message();
}

TEST(GgufRope, RecoversOtherParametersAndKeepsOtherFactors) {
  ModelRecord model;
  model.block().head_dim = 64;
  model.block().rope.theta = 500000;
  const auto factors_of = [&](double factor, double low, double high, double original) {
    std::vector<float> factors;
    for (uint32_t i = 0; i < model.block().head_dim / 2; ++i) {
      const double wavelength = 2 * M_PI * std::pow(500000.0, 2.0 * i / model.block().head_dim);
      const double share = std::min(1.0, std::max(0.0, (original / wavelength - low) / (high - low)));
      factors.push_back(static_cast<float>(1 / ((1 - share) / factor + share)));
    }
    return factors;
  };
  const auto set = [](const std::vector<float>& factors, ModelRecord* m) {
    return set_rope_factors(factors, 4096, m->block().head_dim, &m->block().rope);
  };
  ASSERT_TRUE(set(factors_of(32, 1, 4, 8192), &model).ok());
  EXPECT_EQ(model.block().rope.factor, 32.f);
  EXPECT_EQ(model.block().rope.original_max_positions, 8192u);
  ASSERT_TRUE(set(factors_of(16, 1, 8, 4096), &model).ok());
  EXPECT_EQ(model.block().rope.original_max_positions, 4096u);
  EXPECT_NEAR(model.block().rope.high_freq_factor, 8, 1e-3);

  ModelRecord plain;
  plain.block().head_dim = 64;
  plain.block().rope.theta = 500000;
  ASSERT_TRUE(set(std::vector<float>(32, 1.f), &plain).ok());
  EXPECT_EQ(plain.block().rope.scaling, RopeScaling::kNone);
  std::vector<float> odd = factors_of(8, 1, 4, 8192);
  odd[3] = 5;
  ASSERT_TRUE(set(odd, &plain).ok());
  EXPECT_EQ(plain.block().rope.scaling, RopeScaling::kLong);
  EXPECT_EQ(rope_factors(plain, kRopeFactors), odd);
  odd[3] = -1;
  EXPECT_EQ(set(odd, &plain).code(), StatusCode::kCorrupt);
}

Result<TokenizerRecord> parse_tokenizer(const GgufBuilder& builder, std::string* note) {
  const std::string bytes = builder.build();
  Result<GgufFile> file = GgufFile::open(make_owned_reader(std::vector<uint8_t>(bytes.begin(), bytes.end())));
  if (!file.ok()) return file.status();
  return parse_gguf_tokenizer(*file, note);
}

TEST(GgufTokenizer, ReadsSentencePiece) {
  GgufBuilder builder;
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    snprintf(text, sizeof text, "<0x%02X>", byte);
    tokens.push_back(text);
    types.push_back(6);
  }
  for (const char* text : {"\xe2\x96\x81", "a",
                           "\xe2\x96\x81"
                           "a"}) {
    tokens.push_back(text);
    types.push_back(1);
  }
  std::vector<float> scores(tokens.size(), 0);
  scores.back() = -3;
  builder.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
  builder.integers("tokenizer.ggml.token_type", types).floats("tokenizer.ggml.scores", scores);
  std::string note;
  const auto record = parse_tokenizer(builder, &note);
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->kind, TokenizerKind::kSentencePieceBpe);
  EXPECT_TRUE(record->byte_fallback && record->add_bos && record->add_prefix_space);
  EXPECT_EQ(record->bos_id, 1u);
  EXPECT_EQ(record->unk_id, 0u);
  EXPECT_EQ(record->tokens[3 + 10].bytes, "\n");
  EXPECT_EQ(record->tokens[3 + 10].type, TokenType::kByte);
  EXPECT_EQ(record->tokens.back().bytes, " a");
  EXPECT_EQ(record->tokens.back().score, -3.f);

  scores.pop_back();
  GgufBuilder short_scores;
  short_scores.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
  short_scores.integers("tokenizer.ggml.token_type", types).floats("tokenizer.ggml.scores", scores);
  EXPECT_EQ(parse_tokenizer(short_scores, &note).status().code(), StatusCode::kCorrupt);
}

TEST(GgufTokenizer, ReadsByteLevelVariantsAndRefusesOthers) {
  const auto base = [](const std::string& pre) {
    GgufBuilder builder;
    builder.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a", "b", "ab", "\xc4\xa0"});
    if (!pre.empty()) builder.string("tokenizer.ggml.pre", pre);
    return builder;
  };
  std::string note;
  EXPECT_EQ(parse_tokenizer(base("gpt-2"), &note)->pre_tokenizer, PreTokenizer::kGpt2);
  EXPECT_EQ(parse_tokenizer(base("smollm"), &note)->pre_tokenizer, PreTokenizer::kSmolLm2);
  EXPECT_EQ(parse_tokenizer(base("llama-bpe"), &note)->pre_tokenizer, PreTokenizer::kLlama3);
  EXPECT_EQ(note, "");
  EXPECT_EQ(parse_tokenizer(base(""), &note)->pre_tokenizer, PreTokenizer::kGpt2);
  EXPECT_NE(note, "");
  const auto qwen2 = parse_tokenizer(base("qwen2"), &note);
  EXPECT_EQ(qwen2->pre_tokenizer, PreTokenizer::kQwen2);
  EXPECT_EQ(qwen2->normalizer.size(), 1u) << "it composes characters, which the file does not say";
  EXPECT_TRUE(parse_tokenizer(base("tekken"), &note)->ignore_merges);
  const auto unknown = parse_tokenizer(base("a-new-one"), &note);
  EXPECT_EQ(unknown.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(unknown.status().message().find("a-new-one"), std::string::npos);
  EXPECT_EQ(parse_tokenizer(GgufBuilder().string("tokenizer.ggml.model", "rwkv"), &note).status().code(),
            StatusCode::kUnsupported);
  EXPECT_EQ(parse_tokenizer(base("gpt-2").strings("tokenizer.ggml.merges", {"a b"}), &note)->merges.size(), 1u);
  for (const char* merge : {"ab", "a ", " b", "a b b", "b a", "x b", ""}) {
    EXPECT_EQ(parse_tokenizer(base("gpt-2").strings("tokenizer.ggml.merges", {merge}), &note).status().code(),
              StatusCode::kCorrupt)
        << merge;
  }
  EXPECT_FALSE(parse_tokenizer(base("gpt-2").u32("tokenizer.ggml.bos_token_id", 4), &note).ok());
  EXPECT_FALSE(parse_tokenizer(base("gpt-2").integers("tokenizer.ggml.token_type", {1, 1, 1}), &note).ok());
  EXPECT_FALSE(parse_tokenizer(base("gpt-2").integers("tokenizer.ggml.token_type", {1, 1, 1, 9}), &note).ok());
  EXPECT_FALSE(parse_tokenizer(base("gpt-2").integers("tokenizer.ggml.token_type", {1, 1, 1, 6}), &note).ok());
  GgufBuilder outside;
  outside.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a b"});
  const auto record = parse_tokenizer(outside, &note);
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->tokens[0].options, TokenizerRecord::kDecodesOnly) << "no text is written like this";
}

TEST(GgufTokenizer, PutsEosBehindTheTextWhereTheFileSaysSo) {
  const auto base = [] {
    GgufBuilder builder;
    builder.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    builder.strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<e>"}).u32("tokenizer.ggml.eos_token_id", 3);
    return builder;
  };
  std::string note;
  EXPECT_TRUE(parse_tokenizer(base(), &note)->after.empty());
  EXPECT_EQ(parse_tokenizer(base().boolean("tokenizer.ggml.add_eos_token", true), &note)->after,
            std::vector<uint32_t>{3});
}

TEST(GgufTokenizer, ReadsUnigram) {
  GgufBuilder builder;
  builder.string("tokenizer.ggml.model", "t5")
      .strings("tokenizer.ggml.tokens", {"<pad>", "</s>", "<unk>", "\xe2\x96\x81", "a", "\xe2\x96\x81\x61"})
      .integers("tokenizer.ggml.token_type", {3, 3, 2, 1, 1, 1})
      .floats("tokenizer.ggml.scores", {0, 0, 0, -2, -3, -1});
  std::string note;
  const auto record = parse_tokenizer(builder, &note);
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->kind, TokenizerKind::kUnigram);
  const auto tokenizer = std::move(Tokenizer::create(*record)).value();
  EXPECT_EQ(*tokenizer->encode("  a aa  x", {.add_end = true}), (std::vector<uint32_t>{5, 5, 4, 3, 2, 1}));
}

TEST(GgufTokenizer, ReadsWordPiece) {
  GgufBuilder builder;
  std::vector<std::string> tokens(103, "[unused]");
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = "[unused" + std::to_string(i) + "]";
  tokens[0] = "\xe2\x96\x81walk";
  tokens[1] = "ing";
  tokens[2] = "\xe2\x96\x81.";
  builder.string("tokenizer.ggml.model", "bert").strings("tokenizer.ggml.tokens", tokens);
  std::string note;
  const auto record = parse_tokenizer(builder, &note);
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->kind, TokenizerKind::kWordPiece);
  const auto tokenizer = std::move(Tokenizer::create(*record)).value();
  EXPECT_EQ(*tokenizer->encode("W\xc3\xa0lking. run", {.add_end = true}),
            (std::vector<uint32_t>{101, 0, 1, 2, 100, 102}));
  EXPECT_EQ(tokenizer->decode({0, 1, 2}), "walking .");
}

}  // namespace
}  // namespace nwc
