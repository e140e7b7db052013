// GGUF files and folders that decompress writes from what a .nwc file keeps of its source.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/base/half.h"
#include "runtime/base/thread_pool.h"
#include "tests/data/gguf_builder.h"
#include "tests/data/temp_dir.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/engine/family_fixture.h"
#include "trainer/data/gguf_file.h"
#include "trainer/data/model_source.h"
#include "trainer/encode/encoder.h"
#include "trainer/encode/raw_image.h"
#include "trainer/inspect/decompress.h"

namespace nwc {
namespace {

using nlohmann::json;
using test::GgufBuilder;
using test::load_file;
using test::TempDir;

const std::string kModel = NWC_SOURCE_DIR "/models/gutenlm-2.6m";

// A .nwc file, or an image of an uncompressed model, with what is kept of its source.
struct Opened {
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(2);
  std::unique_ptr<Decoder> decoder;
  std::optional<SourceRecord> source;

  const SourceRecord* kept() const { return source ? &*source : nullptr; }
};

Opened open_reader(std::unique_ptr<Reader> reader) {
  Opened opened;
  auto file = NwcFile::open(std::move(reader));
  EXPECT_TRUE(file.ok()) << file.status().message();
  opened.file = std::move(file).value();
  auto decoder = create_cpu_decoder(*opened.file, *opened.runner, detect_cpu_level());
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  opened.decoder = std::move(decoder).value();
  auto source = load_source_record(opened.file->container());
  EXPECT_TRUE(source.ok()) << source.status().message();
  opened.source = std::move(source).value();
  return opened;
}

// The model's own weights, to compare exactly.
Opened open_image(const std::string& path) {
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  const std::shared_ptr<const ModelSource> shared = std::move(source).value();
  auto image = make_raw_image(shared, 1);
  EXPECT_TRUE(image.ok()) << image.status().message();
  Opened opened = open_reader(std::move(image).value());
  auto files = shared->source_files();
  EXPECT_TRUE(files.ok()) << files.status().message();
  if (!files->record.files.empty()) opened.source = std::move(files->record);
  return opened;
}

Opened compress_and_open(const std::string& path, const TempDir& folder, bool keep_source) {
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  CompressOptions options;
  options.keep_source = keep_source;
  const auto report = compress_model(**source, testing::synthetic_codec(), options, folder.file("m.nwc"), {}, {});
  EXPECT_TRUE(report.ok()) << report.status().message();
  auto reader = open_file_reader(folder.file("m.nwc"));
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  return open_reader(std::move(reader).value());
}

GgufBuilder unknown_architecture() {
  GgufBuilder builder;
  builder.alignment = 64;
  builder.string("general.architecture", "mystery").u32("general.alignment", 64).u32("general.file_type", 0);
  builder.string("tokenizer.chat_template", "{{ messages }}").floats("mystery.scales", {1.5f, -2});
  builder.strings("tokenizer.ggml.tokens", {"a", "b", "\xff"}).u64("mystery.large", 1ull << 40);
  builder.f32_tensor("blk.0.attn_q.weight", {4, 6}, 0.25f).f32_tensor("blk.0.norm.weight", {4}, 2);
  return builder.f32_tensor("token_embd.weight", {4, 5}, -1);
}

TEST(DecompressSource, UnquantizedGgufComesBackToTheByte) {
  const TempDir folder;
  const std::string original = folder.write("m.gguf", unknown_architecture().build());
  const Opened opened = open_image(original);
  std::vector<std::string> notes;
  const Status status = decompress_to_gguf(*opened.file, *opened.decoder, *opened.runner, opened.kept(), {},
                                           folder.file("back.gguf"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(load_file(folder.file("back.gguf")), load_file(original));
}

// Tensors that a family's checkpoints hold transposed, with rows that alternate by head, or with all experts in one,
// come back as they were.
TEST(DecompressSource, FamiliesComeBackInTheirForms) {
  for (const char* name : {"gpt2", "gpt_neox", "phi3", "qwen3_moe", "granite_moe_shared", "gpt_oss"}) {
    const TempDir folder;
    const test::FamilyFixture family = test::make_family(name);
    const Opened opened = open_image(family.folder);
    ASSERT_TRUE(opened.file->model()) << opened.file->model_status().message();
    std::vector<std::string> notes;
    const Status status =
        decompress_to_folder(*opened.file, *opened.decoder, opened.kept(), {}, folder.file("back"), {}, &notes);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto tensors_of = [](const std::string& path) {
      std::map<std::string, std::pair<std::vector<uint64_t>, std::vector<uint8_t>>> tensors;
      const auto source = open_model_source(path);
      EXPECT_TRUE(source.ok()) << source.status().message();
      if (!source.ok()) return tensors;
      for (size_t i = 0; i < (*source)->tensors().size(); ++i) {
        const SourceTensor& t = (*source)->tensors()[i];
        std::vector<uint8_t> bytes(t.num_bytes());
        EXPECT_TRUE((*source)->read_raw(i, bytes).ok());
        tensors[t.name] = {t.shape, std::move(bytes)};
      }
      return tensors;
    };
    // A bare safetensors file is read as it lies.
    EXPECT_EQ(tensors_of(folder.file("back/model.safetensors")), tensors_of(family.folder + "/model.safetensors"))
        << name;
    const auto plain = tensors_of(family.folder), stored = tensors_of(family.folder + "/model.safetensors");
    EXPECT_EQ(plain == stored, std::string(name) == "phi3" || std::string(name) == "qwen3_moe")
        << "the forms of " << name << " differ";
  }
}

TEST(DecompressSource, LlamaGgufKeepsNamesOrderMetadataAndRows) {
  const TempDir folder;
  const std::string original = NWC_SOURCE_DIR "/tests/fixtures/gguf/tiny-llama.gguf";
  const Opened opened = open_image(original);
  ASSERT_TRUE(opened.file->model());
  std::vector<std::string> notes;
  const Status status = decompress_to_gguf(*opened.file, *opened.decoder, *opened.runner, opened.kept(),
                                           find_gguf_file_type("f32"), folder.file("back.gguf"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(notes.empty());
  const auto before = GgufFile::open(open_file_reader(original).value()),
             after = GgufFile::open(open_file_reader(folder.file("back.gguf")).value());
  ASSERT_TRUE(before.ok() && after.ok());
  ASSERT_EQ(after->raw_metadata().size(), before->raw_metadata().size());
  for (size_t i = 0; i < before->raw_metadata().size(); ++i) {
    const auto &a = before->raw_metadata()[i], &b = after->raw_metadata()[i];
    EXPECT_EQ(a.key, b.key);
    if (a.key == "general.file_type") continue;
    EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << a.key;
  }
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  for (size_t i = 0; i < before->tensors().size(); ++i) EXPECT_EQ(after->tensors()[i].name, before->tensors()[i].name);
  const auto original_source = open_model_source(original), back = open_model_source(folder.file("back.gguf"));
  ASSERT_TRUE(original_source.ok() && back.ok());
  for (size_t i = 0; i < (*original_source)->tensors().size(); ++i) {
    EXPECT_EQ((*back)->read_f32(i).value(), (*original_source)->read_f32(i).value()) << (*back)->tensors()[i].name;
  }
}

TEST(DecompressSource, CompressedFileKeepsItsSource) {
  const TempDir folder;
  const std::string original = folder.write("m.gguf", unknown_architecture().build());
  const Opened opened = compress_and_open(original, folder, true);
  ASSERT_TRUE(opened.source);
  EXPECT_EQ(opened.source->kind, SourceKind::kGguf);
  const SectionEntry* entry = opened.file->container().find(SectionType::kSource);
  ASSERT_NE(entry, nullptr);
  EXPECT_NE(entry->flags & kSectionOptional, 0u) << "older readers may ignore it";
  EXPECT_FALSE(compress_and_open(original, folder, false).source);
}

TEST(DecompressSource, FolderOfAFolderHasItsFiles) {
  const TempDir folder;
  const Opened opened = open_image(kModel);
  std::vector<std::string> notes;
  const auto to_folder = [&](std::optional<Dtype> dtype, const std::string& name) {
    const Status status =
        decompress_to_folder(*opened.file, *opened.decoder, opened.kept(), dtype, folder.file(name), {}, &notes);
    ASSERT_TRUE(status.ok()) << status.message();
  };
  to_folder({}, "same/");
  for (const char* name : {"config.json", "tokenizer.json", "README.md"}) {
    EXPECT_EQ(load_file(folder.file("same/") + name), load_file(kModel + "/" + name)) << name;
  }
  to_folder(Dtype::kF32, "wide");
  EXPECT_EQ(json::parse(load_file(folder.file("wide/config.json")))["torch_dtype"], "float32");
  EXPECT_TRUE(notes.empty());
  const auto before = open_model_source(kModel), after = open_model_source(folder.file("wide"));
  ASSERT_TRUE(after.ok()) << after.status().message();
  for (size_t i = 0; i < (*before)->tensors().size(); ++i) {
    const auto at = (*after)->find((*before)->tensors()[i].name);
    ASSERT_TRUE(at);
    EXPECT_EQ((*after)->read_f32(*at).value(), (*before)->read_f32(i).value());
  }
  const Status again =
      decompress_to_folder(*opened.file, *opened.decoder, opened.kept(), {}, folder.file("wide"), {}, &notes);
  EXPECT_EQ(again.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(again.message().find("not empty"), std::string::npos) << again.message();
}

TEST(DecompressSource, FolderOfAGgufFileIsMade) {
  const TempDir folder;
  const Opened opened = open_image(NWC_SOURCE_DIR "/tests/fixtures/gguf/tiny-llama.gguf");
  std::vector<std::string> notes;
  const Status status =
      decompress_to_folder(*opened.file, *opened.decoder, opened.kept(), {}, folder.file("made"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto back = open_model_source(folder.file("made"));
  ASSERT_TRUE(back.ok()) << back.status().message();
  ASSERT_TRUE((*back)->model() && (*back)->tokenizer());
  EXPECT_EQ(serialize(*(*back)->model()), serialize(*opened.file->model()));
  EXPECT_EQ(serialize(*(*back)->tokenizer()), serialize(*opened.file->tokenizer()));
}

TEST(DecompressSource, FolderOfAnUnknownArchitectureSaysWhatItLacks) {
  const TempDir folder;
  const Opened opened = open_image(folder.write("m.gguf", unknown_architecture().build()));
  std::vector<std::string> notes;
  const Status status =
      decompress_to_folder(*opened.file, *opened.decoder, opened.kept(), {}, folder.file("made"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_GE(notes.size(), 2u);
  EXPECT_NE(notes[0].find("config.json cannot be made"), std::string::npos) << notes[0];
  const auto back = open_model_source(folder.file("made/model.safetensors"));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ((*back)->tensors().size(), 3u);
}

TEST(DecompressSource, GgufOfAFolderHasTemplateTokensNameAndLicense) {
  const TempDir folder;
  std::filesystem::create_directory(folder.file("m"));
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    std::filesystem::copy_file(kModel + "/" + name, folder.file("m/") + name);
  }
  folder.write("m/README.md", "---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n");
  const Opened opened = [&] {
    const std::string token = open_image(kModel).file->tokenizer()->tokens[0].bytes;
    folder.write("m/tokenizer_config.json",
                 json{{"pad_token", {{"content", token}}}, {"chat_template", "{{ messages }}"}}.dump());
    return compress_and_open(folder.file("m"), folder, true);
  }();
  std::vector<std::string> notes;
  const Status status = decompress_to_gguf(*opened.file, *opened.decoder, *opened.runner, opened.kept(), {},
                                           folder.file("back.gguf"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(notes.empty());
  const auto back = GgufFile::open(open_file_reader(folder.file("back.gguf")).value());
  ASSERT_TRUE(back.ok()) << back.status().message();
  std::string chat, license;
  uint32_t pad = UINT32_MAX;
  ASSERT_TRUE(back->get("tokenizer.chat_template", &chat).ok() && back->get("general.license", &license).ok() &&
              back->get("tokenizer.ggml.padding_token_id", &pad).ok());
  EXPECT_EQ(chat, "{{ messages }}");
  EXPECT_EQ(license, "apache-2.0");
  EXPECT_EQ(pad, 0u);
}

}  // namespace
}  // namespace nwc
