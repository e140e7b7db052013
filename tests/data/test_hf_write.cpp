// Configurations and tokenizers that are written for transformers read back as the records that they were made from.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "tests/model/tokenizer_fixtures.h"
#include "tests/model_records.h"
#include "trainer/data/atomic_folder.h"
#include "trainer/data/hf_config.h"
#include "trainer/data/hf_made.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/hf_write.h"

namespace nwc {
namespace {

using test::TempDir;

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

TokenizerRecord fixture(const std::string& name) {
  Result<TokenizerRecord> record = parse_tokenizer_record(read_fixture(name + ".tokenizer"), 0);
  EXPECT_TRUE(record.ok()) << name << ": " << record.status().message();
  return std::move(record).value();
}

ModelRecord model() {
  ModelRecord m = test::llama_record({.vocab = 300,
                                      .hidden = 64,
                                      .inner = 96,
                                      .layers = 2,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 32,
                                      .context = 4096});
  m.block().rope.theta = 500000;
  m.eos_ids = {2, 7};
  return m;
}

TEST(HfConfigWrite, ReadsBackTheSameRecord) {
  std::vector<ModelRecord> models(3, model());
  models[1].block().rope.scaling = RopeScaling::kLinear;
  models[1].block().rope.factor = 2.5f;
  models[1].tied_embeddings = true;
  models[1].eos_ids = {2};
  models[2].block().rope.scaling = RopeScaling::kLlama3;
  models[2].block().rope.factor = 32;
  models[2].block().rope.original_max_positions = 8192;
  models[2].eos_ids.clear();
  for (const ModelRecord& m : models) {
    const std::string text = make_hf_config(m, *find_family("LlamaForCausalLM", ""), nullptr, Dtype::kBf16);
    const Result<HfConfig> back = parse_hf_config(bytes_of(text), nullptr);
    ASSERT_TRUE(back.ok()) << back.status().message();
    EXPECT_EQ(serialize(back->model), serialize(m)) << text;
    EXPECT_EQ(nlohmann::json::parse(text)["torch_dtype"], "bfloat16");
  }
  EXPECT_NE(make_hf_config(model(), *find_family("LlamaForCausalLM", ""), nullptr, Dtype::kF32)
                .find("\"rms_norm_eps\": 1e-05"),
            std::string::npos);
}

TEST(HfConfigWrite, AdaptsTheTypeAndNothingElse) {
  const std::string config = R"({"z":1,  "torch_dtype":"bfloat16","a":[1.5]})";
  EXPECT_EQ(*adapt_hf_config(config, Dtype::kBf16, false), config) << "as it was, to the byte";
  using nlohmann::json;
  EXPECT_EQ(json::parse(*adapt_hf_config(config, Dtype::kF32, false)),
            json::parse(R"({"z":1,"torch_dtype":"float32","a":[1.5]})"));
  EXPECT_EQ(json::parse(*adapt_hf_config(R"({"dtype":"float32"})", Dtype::kF16, false)),
            json::parse(R"({"dtype":"float16"})"));
  const std::string quantized = R"({"torch_dtype":"bfloat16","quantization_config":{"quant_method":"fp8"}})";
  EXPECT_EQ(hf_quant_method(quantized), "fp8");
  EXPECT_EQ(hf_quant_method(config), "");
  EXPECT_EQ(*adapt_hf_config(quantized, Dtype::kBf16, false), quantized);
  EXPECT_EQ(json::parse(*adapt_hf_config(quantized, Dtype::kBf16, true)), json::parse(R"({"torch_dtype":"bfloat16"})"));
  EXPECT_EQ(adapt_hf_config("[1]", Dtype::kF32, false).status().code(), StatusCode::kCorrupt);
}

TEST(HfTokenizerWrite, ReadsBackTheSameRecord) {
  for (const char* name :
       {"gutenlm", "gpt2_prefix", "smollm2", "llama3", "llama2", "llama2_unk", "metaspace_first", "metaspace_always"}) {
    const TokenizerRecord record = fixture(name);
    const Result<std::string> json = make_hf_tokenizer(record);
    ASSERT_TRUE(json.ok()) << name << ": " << json.status().message();
    const std::optional<uint32_t> bos =
        record.bos_id == UINT32_MAX ? std::nullopt : std::optional<uint32_t>(record.bos_id);
    SourceNotes notes;
    const Result<TokenizerRecord> back = parse_hf_tokenizer(bytes_of(*json), bos, &notes);
    ASSERT_TRUE(back.ok()) << name << ": " << back.status().message();
    EXPECT_TRUE(notes.empty()) << name;
    EXPECT_EQ(serialize(*back), serialize(record)) << name;
  }
}

// GGUF's SentencePiece has scores where tokenizer.json has merges.
TEST(HfTokenizerWrite, MergesStandForScores) {
  for (const char* name : {"sentencepiece", "sentencepiece_unk"}) {
    const TokenizerRecord record = fixture(name);
    ASSERT_TRUE(record.merges.empty());
    const Result<std::string> json = make_hf_tokenizer(record);
    ASSERT_TRUE(json.ok()) << name << ": " << json.status().message();
    SourceNotes notes;
    const Result<TokenizerRecord> back = parse_hf_tokenizer(bytes_of(*json), record.bos_id, &notes);
    ASSERT_TRUE(back.ok()) << name << ": " << back.status().message();
    EXPECT_FALSE(back->merges.empty());
    const auto original = Tokenizer::create(record), other = Tokenizer::create(*back);
    ASSERT_TRUE(original.ok() && other.ok());
    for (const std::string& text : fixture_strings()) {
      EXPECT_EQ(*(*other)->encode(text, {}), *(*original)->encode(text, {})) << name << ": " << text;
    }
  }
}

TEST(HfTokenizerWrite, SaysWhatItCannotExpress) {
  TokenizerRecord record = fixture("gutenlm");
  const auto normal = std::find_if(record.tokens.begin(), record.tokens.end(),
                                   [](const auto& t) { return t.type == TokenType::kNormal; });
  record.tokens.push_back(*normal);
  EXPECT_NE(make_hf_tokenizer(record).status().message().find("two tokens"), std::string::npos);
}

TEST(HfTokenizerWrite, ConfigHoldsTokensAndTemplates) {
  TokenizerRecord record = fixture("gutenlm");
  TokenizerConfig config;
  config.eos_id = 0;
  config.pad_id = UINT32_MAX - 1;
  config.chat_templates = {{"default", "{{ x }}"}};
  using nlohmann::json;
  json written = json::parse(make_hf_tokenizer_config(record, config, 512));
  EXPECT_EQ(written["eos_token"], record.tokens[0].bytes);
  EXPECT_EQ(written["chat_template"], "{{ x }}");
  EXPECT_EQ(written["model_max_length"], 512);
  EXPECT_FALSE(written.contains("pad_token")) << "an id that no token has";
  config.chat_templates.push_back({"tool", "{{ y }}"});
  written = json::parse(make_hf_tokenizer_config(record, config, 0));
  EXPECT_EQ(written["chat_template"][1], json::parse(R"({"name":"tool","template":"{{ y }}"})"));
}

TEST(AtomicFolder, AppearsCompleteOrNotAtAll) {
  const TempDir tmp;
  const uint8_t byte = 'x';
  {
    Result<AtomicFolder> folder = AtomicFolder::create(tmp.file("gone/"));
    ASSERT_TRUE(folder.ok()) << folder.status().message();
    EXPECT_TRUE(folder->write("a", {&byte, 1}).ok());
    EXPECT_EQ(tmp.count(), 1u);
  }
  EXPECT_EQ(tmp.count(), 0u);
  std::filesystem::create_directory(tmp.file("empty"));
  std::filesystem::create_directory_symlink(tmp.file("empty"), tmp.file("link"));
  for (const char* name : {"new/", "link"}) {
    Result<AtomicFolder> folder = AtomicFolder::create(tmp.file(name));
    ASSERT_TRUE(folder.ok()) << folder.status().message();
    EXPECT_TRUE(folder->write("a", {&byte, 1}).ok());
    ASSERT_TRUE(folder->commit().ok());
    EXPECT_EQ(test::load_file(tmp.file(name) + "/a"), "x");
  }
  EXPECT_TRUE(std::filesystem::is_symlink(tmp.file("link")));
  tmp.write("file", "y");
  std::filesystem::create_symlink("nowhere", tmp.file("dangling"));
  for (const char* name : {"new", "file", "link", "dangling"}) {
    EXPECT_EQ(AtomicFolder::create(tmp.file(name)).status().code(), StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(AtomicFolder::create(tmp.file("no/such/parent")).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(AtomicFolder::check(tmp.file("no/such/parent")).code(), StatusCode::kInvalidArgument)
      << "known before the work";
  const size_t count = tmp.count();
  EXPECT_TRUE(AtomicFolder::check(tmp.file(std::string(250, 'n'))).ok()) << "as long as the file system takes";
  EXPECT_EQ(tmp.count(), count) << "a check leaves nothing";
  EXPECT_EQ(tmp.count(), 5u);
}

}  // namespace
}  // namespace nwc
