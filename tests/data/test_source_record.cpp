// The SOURCE section, and collecting the files for it.
#include <gtest/gtest.h>

#include "tests/data/gguf_builder.h"
#include "tests/data/safetensors_bytes.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/gguf_kept.h"
#include "trainer/data/hf_source_files.h"
#include "trainer/data/model_source.h"
#include "trainer/data/source_record.h"

namespace nwc {
namespace {

using test::GgufBuilder;
using test::TempDir;

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }
std::string text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

SourceRecord sample() {
  SourceRecord record;
  record.files = {{"config.json", bytes_of("{}")}, {"empty.txt", {}}, {"b", {0, 255, 7}}};
  return record;
}

TEST(SourceRecord, RoundTripsAndRejectsEveryPrefix) {
  for (const SourceKind kind : {SourceKind::kHuggingFace, SourceKind::kGguf}) {
    SourceRecord record = sample();
    record.kind = kind;
    std::vector<uint8_t> bytes = serialize(record);
    const Result<SourceRecord> parsed = parse_source_record(bytes, 0);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(parsed->kind, kind);
    EXPECT_EQ(serialize(*parsed), bytes);
    ASSERT_NE(parsed->find("b"), nullptr);
    EXPECT_EQ(parsed->find("b")->bytes, (std::vector<uint8_t>{0, 255, 7}));
    EXPECT_EQ(parsed->find("c"), nullptr);
    for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(parse_source_record(Bytes(bytes).first(n), 0).ok()) << n;
    bytes.push_back(0);
    EXPECT_EQ(parse_source_record(bytes, 0).status().code(), StatusCode::kCorrupt);
  }
}

TEST(SourceRecord, RejectsWhatItDoesNotKnow) {
  std::vector<uint8_t> bytes = serialize(sample());
  bytes[0] = 2;
  EXPECT_EQ(parse_source_record(bytes, 0).status().code(), StatusCode::kUnsupported);
  bytes = serialize(sample());
  bytes[4] = 3;
  EXPECT_EQ(parse_source_record(bytes, 0).status().code(), StatusCode::kUnsupported);
  bytes = serialize(sample());
  store_le<uint32_t>(&bytes[8], 257);
  EXPECT_EQ(parse_source_record(bytes, 0).status().code(), StatusCode::kLimit);
}

// Files are written under these names: none may lead out of its folder, or hide another.
TEST(SourceRecord, RejectsNamesThatAreNoFileNames) {
  for (const std::string& name : {std::string("a/b"), std::string(".."), std::string("."), std::string("a\\b"),
                                  std::string("a\0b", 3), std::string("\xff"), std::string()}) {
    ByteWriter out;
    for (const uint32_t v : {1u, 1u, 1u}) out.write(v);
    out.write(static_cast<uint16_t>(name.size()));
    out.write_string(name);
    out.write(uint32_t{0});
    EXPECT_EQ(parse_source_record(out.bytes(), 0).status().code(), StatusCode::kCorrupt) << name;
  }
  SourceRecord twice = sample();
  twice.files[1].name = "b";
  EXPECT_NE(parse_source_record(serialize(twice), 0).status().message().find("twice"), std::string::npos);
}

TEST(SourceRecord, LimitsLeaveOutWithAReason) {
  SourceFiles files;
  const auto never = []() -> Result<std::vector<uint8_t>> { return io_error("was read"); };
  const auto one = [] { return Result<std::vector<uint8_t>>(std::vector<uint8_t>{1}); };
  EXPECT_TRUE(add_source_file("big.json", kMaxSourceFileBytes + 1, never, &files).ok());
  EXPECT_TRUE(add_source_file("a/b", 1, never, &files).ok());
  ASSERT_EQ(files.left_out.size(), 2u);
  EXPECT_NE(files.left_out[0].find("big.json"), std::string::npos);
  EXPECT_NE(files.left_out[0].find("64 MiB"), std::string::npos);
  EXPECT_EQ(add_source_file("c", 1, never, &files).code(), StatusCode::kIo);
  for (size_t i = 0; i < kMaxSourceFiles; ++i) {
    ASSERT_TRUE(add_source_file("f" + std::to_string(i), 1, one, &files).ok());
  }
  EXPECT_TRUE(add_source_file("one-more", 1, never, &files).ok());
  EXPECT_EQ(files.left_out.size(), 3u);
  EXPECT_TRUE(parse_source_record(serialize(files.record), 0).ok());
}

TEST(HfSourceFiles, TakesWhatDescribesTheModelAndNothingElse) {
  const TempDir folder;
  for (const char* name : {"config.json", "tokenizer.json", "chat_template.jinja", "README.md", "LICENSE.txt",
                           "modeling_odd.py", "merges.txt"}) {
    folder.write(name, std::string("text of ") + name);
  }
  for (const char* name :
       {".env", "notes.txt", "model.safetensors.index.json", "pytorch_model.bin", "train.py", "trainer_state.json"}) {
    folder.write(name, "private");
  }
  std::filesystem::create_directory(folder.file("vocab.json"));
  folder.write("NOTICE", std::string((1 << 20) + 1, 'x'));
  const Result<SourceFiles> files = collect_hf_files(folder.path());
  ASSERT_TRUE(files.ok()) << files.status().message();
  std::vector<std::string> names;
  for (const SourceFile& file : files->record.files) {
    names.push_back(file.name);
    EXPECT_EQ(text_of(file.bytes), "text of " + file.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"LICENSE.txt", "README.md", "chat_template.jinja", "config.json",
                                             "merges.txt", "modeling_odd.py", "tokenizer.json"}));
  ASSERT_EQ(files->left_out.size(), 1u);
  EXPECT_NE(files->left_out[0].find("NOTICE"), std::string::npos);
}

GgufBuilder unknown_architecture() {
  GgufBuilder builder;
  builder.alignment = 64;
  builder.string("general.architecture", "mystery").u32("general.alignment", 64).u32("general.file_type", 0);
  builder.string("tokenizer.chat_template", "{{ messages }}").string("tokenizer.chat_template.tool", "{{ tools }}");
  builder.strings("tokenizer.ggml.tokens", {"a", "b", "\xff"}).floats("mystery.scales", {1.5f, -2});
  builder.u32("tokenizer.ggml.eos_token_id", 1).u32("tokenizer.ggml.padding_token_id", 2);
  builder.u32("split.count", 1).boolean("mystery.flag", true);
  builder.f32_tensor("blk.0.odd.weight", {4, 6}, 0.25f).f32_tensor("blk.0.norm.weight", {4}, 2);
  return builder;
}

TEST(GgufSourceFiles, KeepTheHeaderAsItIs) {
  const TempDir folder;
  size_t header_bytes = 0;
  const std::string bytes = unknown_architecture().build(&header_bytes);
  const auto source = open_model_source(folder.write("m.gguf", bytes));
  ASSERT_TRUE(source.ok()) << source.status().message();
  const Result<SourceFiles> files = (*source)->source_files();
  ASSERT_TRUE(files.ok()) << files.status().message();
  EXPECT_EQ(files->record.kind, SourceKind::kGguf);
  ASSERT_EQ(files->record.files.size(), 1u);
  EXPECT_EQ(text_of(files->record.files[0].bytes), bytes.substr(0, header_bytes));

  const auto headers = open_kept_gguf(files->record);
  ASSERT_TRUE(headers.ok()) << headers.status().message();
  const GgufFile& header = *headers;
  ASSERT_EQ(header.tensors().size(), 2u);
  EXPECT_EQ(header.tensors()[0].name, "blk.0.odd.weight");
  EXPECT_EQ(header.tensors()[0].shape, (std::vector<uint64_t>{6, 4}));
  const Result<TokenizerConfig> config = read_gguf_tokenizer_config(header);
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->eos_id, 1u);
  EXPECT_EQ(config->pad_id, 2u);
  EXPECT_EQ(config->chat_templates,
            (std::vector<std::pair<std::string, std::string>>{{"default", "{{ messages }}"}, {"tool", "{{ tools }}"}}));
}

TEST(GgufSourceFiles, MetadataIsCopiedPairByPair) {
  size_t header_bytes = 0;
  const std::string bytes = unknown_architecture().build(&header_bytes);
  const SourceRecord record{SourceKind::kGguf, {{"header.gguf", bytes_of(bytes.substr(0, header_bytes))}}};
  const auto headers = open_kept_gguf(record);
  ASSERT_TRUE(headers.ok()) << headers.status().message();
  const auto& pairs = headers->raw_metadata();
  const Result<GgufMetadata> copy = copy_gguf_metadata(*headers, 32, false);
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  EXPECT_EQ(copy->alignment(), 64u);
  EXPECT_EQ(copy->num_keys() + 1, pairs.size()) << "split.count alone is left out";
  const std::string text = text_of(copy->bytes());
  for (const GgufFile::RawPair& pair : pairs) {
    const bool changed = pair.key == "split.count" || pair.key == "general.file_type";
    EXPECT_EQ(text.find(text_of(pair.bytes)) == text.npos, changed) << pair.key;
  }
  SourceRecord broken = record;
  broken.files[0].bytes.resize(100);
  EXPECT_FALSE(open_kept_gguf(broken).ok());
  broken.kind = SourceKind::kHuggingFace;
  EXPECT_EQ(open_kept_gguf(broken).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nwc
