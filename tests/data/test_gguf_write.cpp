#include <gtest/gtest.h>

#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/gguf_form.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_tokenizer.h"
#include "trainer/data/gguf_tokenizer_write.h"
#include "trainer/data/gguf_write.h"

namespace nwc {
namespace {

using test::load_file;
using test::TempDir;

Result<GgufFile> write_and_open(const TempDir& folder, const GgufMetadata& metadata,
                                std::span<const GgufTensorSpec> tensors = {}, const TensorProducer& produce = nullptr) {
  NWC_TRY(write_gguf(folder.file("m.gguf"), metadata, tensors, produce));
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(folder.file("m.gguf")));
  return GgufFile::open(std::move(reader));
}

GgufTensorSpec tensor(const std::string& name, Dtype dtype, std::vector<uint64_t> shape) {
  return {name, find_ggml_type(dtype), std::move(shape)};
}

TEST(GgufWrite, ReadsBackWhatItWrote) {
  const TempDir folder;
  GgufMetadata metadata;
  metadata.add_u32("number", 7);
  metadata.add_f32("real", 0.25f);
  metadata.add_bool("truth", true);
  metadata.add_string("text", "a\xc4\xa0z");
  const std::vector<std::string> strings = {"", "x", "yz"};
  const std::vector<int32_t> integers = {-1, 2};
  const std::vector<float> floats = {1, -3};
  metadata.add_strings("strings", strings);
  metadata.add_i32s("integers", integers);
  metadata.add_f32s("floats", floats);
  const std::vector<GgufTensorSpec> tensors = {tensor("a", Dtype::kF16, {3, 5}), tensor("b", Dtype::kF32, {1}),
                                               tensor("c", Dtype::kBf16, {2, 1, 2})};
  const auto produce = [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    bytes->assign(i == 0 ? 30 : i == 1 ? 4 : 8, static_cast<uint8_t>('a' + i));
    return {};
  };
  const auto file = write_and_open(folder, metadata, tensors, produce);
  ASSERT_TRUE(file.ok()) << file.status().message();

  uint32_t number = 0;
  float real = 0;
  bool truth = false;
  std::string text;
  std::vector<std::string> strings_back;
  std::vector<int32_t> integers_back;
  std::vector<float> floats_back;
  ASSERT_TRUE(file->get("number", &number).ok() && file->get("real", &real).ok() && file->get("truth", &truth).ok());
  ASSERT_TRUE(file->get("text", &text).ok() && file->get("strings", &strings_back).ok());
  ASSERT_TRUE(file->get("integers", &integers_back).ok() && file->get("floats", &floats_back).ok());
  EXPECT_EQ(number, 7u);
  EXPECT_EQ(real, 0.25f);
  EXPECT_TRUE(truth);
  EXPECT_EQ(text, "a\xc4\xa0z");
  EXPECT_EQ(strings_back, strings);
  EXPECT_EQ(integers_back, integers);
  EXPECT_EQ(floats_back, floats);

  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& stored = file->tensors()[i];
    EXPECT_EQ(stored.name, tensors[i].name);
    EXPECT_EQ(stored.type, tensors[i].type);
    EXPECT_EQ(stored.shape, tensors[i].shape);
    EXPECT_EQ(stored.offset % 32, 0u);
    std::vector<uint8_t> bytes(stored.size_bytes), expected;
    ASSERT_TRUE(stored.reader->read(stored.offset, bytes).ok());
    ASSERT_TRUE(produce(i, &expected).ok());
    EXPECT_EQ(bytes, expected);
  }
  const std::string once = load_file(folder.file("m.gguf"));
  ASSERT_TRUE(write_gguf(folder.file("m.gguf"), metadata, tensors, produce).ok());
  EXPECT_EQ(load_file(folder.file("m.gguf")), once);
}

TEST(GgufWrite, LeavesNothingBehindOnErrors) {
  const TempDir folder;
  const auto expect_error = [&](const GgufTensorSpec& t, size_t bytes, const std::string& part) {
    const Status status = write_gguf(folder.file("m.gguf"), {}, {&t, 1}, [&](size_t, std::vector<uint8_t>* out) {
      out->resize(bytes);
      return Status();
    });
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    EXPECT_EQ(folder.count(), 0u);
  };
  expect_error(tensor("the.weight", Dtype::kF16, {3}), 5, "5 bytes instead of 6");
  expect_error(tensor("the.weight", Dtype::kBool, {3}), 3, "\"the.weight\": GGUF has no type");
  expect_error({"the.weight", find_ggml_type("Q8_0"), {2, 48}}, 102, "rows are no multiples of 32");
  expect_error({"the.weight", find_ggml_type("Q8_0"), {2, 64}}, 64, "64 bytes instead of 136");
  expect_error(tensor("the.weight", Dtype::kF32, {1, 1, 1, 1, 1}), 4, "more than 4 dimensions");
}

Result<TokenizerRecord> tokenizer_round_trip(const TokenizerRecord& record, uint32_t vocab_size) {
  const TempDir folder;
  GgufMetadata metadata;
  NWC_TRY(add_gguf_tokenizer(record, vocab_size, &metadata));
  NWC_ASSIGN_OR_RETURN(const GgufFile file, write_and_open(folder, metadata));
  std::string note;
  Result<TokenizerRecord> back = parse_gguf_tokenizer(file, &note);
  EXPECT_EQ(note, "");
  return back;
}

TokenizerRecord fixture_tokenizer(const std::string& name) {
  const std::string bytes = load_file(NWC_SOURCE_DIR "/tests/fixtures/tokenizer/" + name + ".tokenizer");
  Result<TokenizerRecord> record =
      parse_tokenizer_record({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, 0);
  EXPECT_TRUE(record.ok()) << name << ": " << record.status().message();
  return std::move(record).value();
}

TEST(GgufTokenizerWrite, ReadsBackTheSameRecord) {
  for (const char* name : {"gutenlm", "smollm2", "llama3", "sentencepiece", "sentencepiece_unk"}) {
    const TokenizerRecord record = fixture_tokenizer(name);
    const auto back = tokenizer_round_trip(record, static_cast<uint32_t>(record.tokens.size()));
    ASSERT_TRUE(back.ok()) << name << ": " << back.status().message();
    EXPECT_EQ(serialize(*back), serialize(record)) << name;
  }
}

// Hugging Face's form of SentencePiece has merges where GGUF has scores.
TEST(GgufTokenizerWrite, ScoresStandForMerges) {
  const std::string strings = load_file(NWC_SOURCE_DIR "/tests/fixtures/tokenizer/strings.txt");
  const TokenizerRecord record = fixture_tokenizer("llama2");
  ASSERT_FALSE(record.merges.empty());
  const auto back = tokenizer_round_trip(record, static_cast<uint32_t>(record.tokens.size()));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(back->merges.empty());
  const auto original = Tokenizer::create(record), other = Tokenizer::create(*back);
  ASSERT_TRUE(original.ok() && other.ok());
  EXPECT_EQ(*(*other)->encode(strings, {}), *(*original)->encode(strings, {}));
}

TEST(GgufTokenizerWrite, FillsTheVocabularyAndRefusesWhatGgufCannotSay) {
  const TokenizerRecord record = fixture_tokenizer("gutenlm");
  const auto padded = tokenizer_round_trip(record, static_cast<uint32_t>(record.tokens.size()) + 2);
  ASSERT_TRUE(padded.ok()) << padded.status().message();
  ASSERT_EQ(padded->tokens.size(), record.tokens.size() + 2);
  EXPECT_EQ(padded->tokens.back().bytes, "[PAD" + std::to_string(record.tokens.size() + 1) + "]");
  EXPECT_EQ(padded->tokens.back().type, TokenType::kControl) << "never taken from text";

  const auto expect_refusal = [](const TokenizerRecord& changed, const std::string& part) {
    GgufMetadata metadata;
    const Status status = add_gguf_tokenizer(changed, 0, &metadata);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  expect_refusal(fixture_tokenizer("gpt2_prefix"), "prefix space");
  TokenizerRecord changed = record;
  changed.ignore_merges = true;
  expect_refusal(changed, "ignore_merges");
  changed = record;
  ASSERT_FALSE(changed.merges.empty());
  TokenizerRecord::Token& left = changed.tokens[changed.merges[0].left];
  left.type = TokenType::kUserDefined;
  left.bytes = "a b";
  expect_refusal(changed, "spaces");
  changed = fixture_tokenizer("llama2");
  changed.byte_fallback = !changed.byte_fallback;
  expect_refusal(changed, "byte fallback");
}

TEST(GgufModelWrite, InvertsNamesAndRowOrder) {
  for (const char* name : {"token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_norm.weight",
                           "blk.12.attn_q.weight", "blk.3.ffn_down.weight"}) {
    EXPECT_EQ(gguf_name_of(translate_gguf_name(name)), name);
  }
  for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.x.mlp.up_proj.weight",
                           "model.layers.", "blk.0.attn_q.weight", ""}) {
    EXPECT_FALSE(gguf_name_of(name)) << name;
  }
  // Heads of 6: rows 0 1 2 | 3 4 5 become 0 3 1 4 2 5.
  std::vector<uint64_t> places;
  for (uint64_t row = 6; row < 12; ++row) places.push_back(gguf_rotary_row(row, 6));
  EXPECT_EQ(places, (std::vector<uint64_t>{6, 8, 10, 7, 9, 11}));
}

TEST(GgufModelWrite, TakesAsManyEndsAsGgufHasNames) {
  ModelRecord model;
  model.eos_ids = {1, 2, 3, 4};
  GgufMetadata four, three;
  const GgufArchitecture& llama = *find_gguf_architecture("llama");
  add_gguf_model(model, llama, &four);
  model.eos_ids.pop_back();
  add_gguf_model(model, llama, &three);
  EXPECT_EQ(four.bytes(), three.bytes());
}

}  // namespace
}  // namespace nwc
