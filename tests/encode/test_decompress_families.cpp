// Every family of models as nwc writes it for other programs: GGUF of a folder, GGUF of a GGUF, a folder of a GGUF.
#include "tests/data/temp_dir.h"
#include "tests/engine/gguf_fixture.h"
#include "trainer/encode/raw_image.h"
#include "trainer/inspect/decompress.h"

namespace nwc::test {
namespace {

class DecompressFamilies : public ::testing::TestWithParam<std::string> {};

/// A model as the runtime sees it, and what its file keeps of the source.
struct Model {
  std::shared_ptr<ModelSource> source;
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(2);
  std::unique_ptr<Decoder> decoder;
  std::optional<SourceRecord> kept;
};

Model open_any(const std::string& path) {
  Model m;
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  m.source = std::move(source).value();
  auto image = make_raw_image(m.source, 2);
  EXPECT_TRUE(image.ok()) << image.status().message();
  auto file = NwcFile::open(std::move(image).value());
  EXPECT_TRUE(file.ok()) << file.status().message();
  m.file = std::move(file).value();
  EXPECT_TRUE(m.file->model()) << m.file->model_status().message();
  auto decoder = create_cpu_decoder(*m.file, *m.runner, CpuLevel::kScalar);
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  m.decoder = std::move(decoder).value();
  auto files = m.source->source_files();
  EXPECT_TRUE(files.ok());
  if (!files->record.files.empty()) m.kept = std::move(files->record);
  return m;
}

Status to_gguf(const Model& m, const std::string& path, std::vector<std::string>* notes) {
  return decompress_to_gguf(*m.file, *m.decoder, *m.runner, m.kept ? &*m.kept : nullptr, find_gguf_file_type("f32"),
                            path, {}, notes);
}

std::vector<float> logits_of(const std::string& path, const FamilyFixture& f) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  Bench bench = make_bench(load_model(path), params);
  EXPECT_NE(bench.session, nullptr);
  return bench.session == nullptr ? std::vector<float>() : all_logits(*bench.session, f.tokens);
}

void expect_close(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  float largest = 0;
  for (const float v : expected) largest = std::max(largest, std::abs(v));
  EXPECT_LT(largest_difference(actual, expected), 1e-4f * largest);
}

std::map<std::string, std::vector<uint8_t>> gguf_tensors(const std::string& path) {
  std::map<std::string, std::vector<uint8_t>> all;
  auto reader = open_file_reader(path);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  const auto file = GgufFile::open(std::move(reader).value());
  EXPECT_TRUE(file.ok()) << file.status().message();
  for (const GgufTensor& t : file->tensors()) {
    std::vector<uint8_t> bytes(t.size_bytes);
    EXPECT_TRUE(t.reader->read(t.offset, bytes).ok());
    all[t.name] = std::move(bytes);
  }
  return all;
}

/// What GGUF has no form for, as the message names it.
const std::map<std::string, std::string> kRefused = {
    {"llama_dynamic", "rotary scaling"},  // no key
    {"gemma2", "attention scale"},        // 1 / sqrt(head_dim) but in the largest model
    {"gemma3", "attention scale"},
    {"smollm3", "layers without positions"},  // others than every fourth
    {"qwen3_moe", "experts"},                 // dense layers among the others
    {"gpt_oss", "MLP"},                       // another bound of the activation than the architecture's
};

// A GGUF file of the model holds all that the folder does, windows that llama.cpp does not look at included.
TEST_P(DecompressFamilies, WriteGgufThatSaysEverything) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const TempDir scratch;
  const FamilyFixture f = make_family(GetParam());
  write_family_tokenizer(f.folder);
  const Model model = open_any(f.folder);
  std::vector<std::string> notes;
  const Status status = to_gguf(model, scratch.file("m.gguf"), &notes);
  if (const auto refused = kRefused.find(f.name); refused != kRefused.end()) {
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find(refused->second), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("write a folder"), std::string::npos) << status.message();
    return;
  }
  ASSERT_TRUE(status.ok()) << status.message();
  expect_close(logits_of(scratch.file("m.gguf"), f), logits_of(f.folder, f));
  const bool windowed =
      f.name == "mistral" || f.name == "mixtral" || f.name == "qwen2" || f.name == "starcoder2" || f.name == "phi3";
  const bool two_bases = f.name == "olmo3";
  EXPECT_EQ(notes.size(), windowed || two_bases ? 1 : 0);
  if (two_bases) {
    EXPECT_NE(notes.at(0).find("one rotary base"), std::string::npos) << notes.at(0);
  }
  if (windowed) {
    EXPECT_NE(notes.at(0).find("without windows"), std::string::npos) << notes.at(0);
  }
}

class DecompressGgufFamilies : public ::testing::TestWithParam<std::string> {};

// The tensors are those of llama.cpp's converter, bit for bit.
TEST_P(DecompressGgufFamilies, WriteTheConvertersTensors) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families_gguf is not here";
  const TempDir scratch;
  const GgufFixture f = make_gguf_family(GetParam());
  write_family_tokenizer(f.family.folder);
  std::vector<std::string> notes;
  const Status status = to_gguf(open_any(f.family.folder), scratch.file("m.gguf"), &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  auto ours = gguf_tensors(scratch.file("m.gguf")), theirs = gguf_tensors(f.path);
  if (f.family.name == "llama") ours.erase("rope_freqs.weight"), theirs.erase("rope_freqs.weight");  // other rounding
  ASSERT_EQ(ours.size(), theirs.size());
  for (const auto& [name, bytes] : theirs) EXPECT_TRUE(ours.contains(name) && ours[name] == bytes) << name;
}

// What came from GGUF goes back to the byte.
TEST_P(DecompressGgufFamilies, ComeBackToTheByte) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families_gguf is not here";
  const TempDir scratch;
  const GgufFixture f = make_gguf_family(GetParam());
  std::vector<std::string> notes;
  const Status status = to_gguf(open_any(f.path), scratch.file("back.gguf"), &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(notes.empty()) << notes.at(0);
  std::ifstream in(scratch.file("back.gguf"), std::ios::binary);
  EXPECT_EQ(std::vector<uint8_t>(std::istreambuf_iterator<char>(in), {}), f.file);
}

// A folder is made for every family: transformers' names and forms, the same logits.
TEST_P(DecompressGgufFamilies, BecomeFolders) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families_gguf is not here";
  const TempDir scratch;
  const GgufFixture f = make_gguf_family(GetParam());
  std::vector<std::string> notes;
  const Model model = open_any(f.path);
  const Status status =
      decompress_to_folder(*model.file, *model.decoder, &*model.kept, {}, scratch.file("made"), {}, &notes);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(notes.empty()) << notes.at(0);
  expect_close(logits_of(scratch.file("made"), f.family), logits_of(f.family.folder, f.family));
  const nlohmann::json made = read_json(scratch.file("made/config.json"));
  const nlohmann::json original = read_json(f.family.folder + "/config.json");
  // A Mistral without its window is Llama's architecture.
  EXPECT_EQ(made["architectures"],
            f.family.name == "mistral" ? nlohmann::json::array({"LlamaForCausalLM"}) : original["architectures"]);
}

/// A source whose tensors of a name are vectors.
class Flattened final : public ModelSource {
 public:
  Flattened(std::shared_ptr<ModelSource> base, const std::string& part) : base_(std::move(base)) {
    tensors_ = base_->tensors();
    for (SourceTensor& t : tensors_) {
      if (t.name.find(part) != std::string::npos) t.shape = {t.num_elements()};
    }
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override { return base_->read_raw(tensor, out); }
  const std::optional<ModelRecord>& model() const override { return base_->model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return base_->tokenizer(); }
  uint64_t stored_bytes() const override { return base_->stored_bytes(); }

 private:
  std::shared_ptr<ModelSource> base_;
  std::vector<SourceTensor> tensors_;
};

// A file need not hold what its description says.
TEST(DecompressMixtures, TensorsOfOtherShapesAreNamed) {
  const TempDir scratch;
  const auto runner = make_thread_pool(1);
  for (const std::string part : {"mlp.experts.gate_up_proj_bias", "mlp.experts.3.gate_up_proj"}) {
    const FamilyFixture f = make_family("gpt_oss", {{"swiglu_limit", 7.0}});
    write_family_tokenizer(f.folder);
    std::shared_ptr<ModelSource> base = open_model_source(f.folder).value();
    auto image = make_raw_image(std::make_shared<Flattened>(base, part), 1);
    ASSERT_TRUE(image.ok()) << image.status().message();
    const auto file = NwcFile::open(std::move(image).value());
    ASSERT_TRUE(file.ok()) << file.status().message();
    const auto decoder = create_cpu_decoder(**file, *runner, CpuLevel::kScalar);
    std::vector<std::string> notes;
    const Status status = decompress_to_gguf(**file, **decoder, *runner, nullptr, find_gguf_file_type("f32"),
                                             scratch.file("m.gguf"), {}, &notes);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecompressFamilies, ::testing::ValuesIn(family_names()),
                         [](const auto& i) { return i.param; });
INSTANTIATE_TEST_SUITE_P(All, DecompressGgufFamilies, ::testing::ValuesIn(gguf_family_names()),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
