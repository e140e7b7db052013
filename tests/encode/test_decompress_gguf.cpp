#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/base/half.h"
#include "runtime/base/thread_pool.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/model_source.h"
#include "trainer/encode/raw_image.h"
#include "trainer/inspect/decompress.h"

namespace nwc {
namespace {

using test::TempDir;

const std::string kModel = NWC_SOURCE_DIR "/models/gutenlm-2.6m";
const std::string kScaledRope = NWC_SOURCE_DIR "/tests/fixtures/gguf/tiny-llama.gguf";
const std::string kSeparateHead = NWC_SOURCE_DIR "/tests/fixtures/logits/tiny-llama3";

// A model as the runtime sees it, with a decoder.
struct Model {
  std::shared_ptr<ModelSource> source;
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(2);
  std::unique_ptr<Decoder> decoder;

  Status convert(const std::string& type, const std::string& path, std::vector<std::string>* notes) const {
    return decompress_to_gguf(*file, *decoder, *runner, nullptr, find_gguf_file_type(type), path, {}, notes);
  }
};

std::string type_name(Dtype dtype) { return dtype == Dtype::kF32 ? "f32" : dtype == Dtype::kF16 ? "f16" : "bf16"; }

// Another source's tensors with a tokenizer or tensors of our own.
class Changed : public ModelSource {
 public:
  explicit Changed(std::unique_ptr<ModelSource> base) : base_(std::move(base)), tensors_(base_->tensors()) {
    model_ = base_->model();
    tokenizer_ = base_->tokenizer();
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    if (tensor < base_->tensors().size()) return base_->read_raw(tensor, out);
    std::fill(out.begin(), out.end(), uint8_t{0});
    if (out.size() >= 4) store_le(out.data(), 1e6f);
    return {};
  }
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override { return tokenizer_; }
  uint64_t stored_bytes() const override { return base_->stored_bytes(); }

  /// A bijection of bytes and tokens for a model of any vocabulary.
  void invent_tokenizer() {
    tokenizer_ = TokenizerRecord();
    for (uint32_t i = 0; i < model()->vocab_size; ++i) {
      TokenizerRecord::Token token;
      token.bytes = i < 256 ? std::string(1, static_cast<char>(i)) : "<|" + std::to_string(i) + "|>";
      if (i >= 256) token.type = TokenType::kControl;
      tokenizer_->tokens.push_back(token);
    }
  }
  void drop_rope_scaling() {
    model_->block().rope.scaling = RopeScaling::kNone;
    model_->block().rope.factor = 1;
    model_->block().rope.original_max_positions = 0;
  }
  void drop_tokenizer() { tokenizer_.reset(); }
  void add_f32(const std::string& name, std::vector<uint64_t> shape) {
    tensors_.push_back({name, Dtype::kF32, "F32", std::move(shape)});
  }
  void rename(const std::string& from, const std::string& to) {
    for (SourceTensor& tensor : tensors_) {
      if (tensor.name == from) tensor.name = to;
    }
  }

 private:
  std::unique_ptr<ModelSource> base_;
  std::vector<SourceTensor> tensors_;
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
};

Model open(const std::string& path, const std::function<void(Changed&)>& change = nullptr) {
  Model model;
  auto base = open_model_source(path);
  EXPECT_TRUE(base.ok()) << base.status().message();
  auto changed = std::make_shared<Changed>(std::move(base).value());
  if (change) change(*changed);
  model.source = changed;
  auto image = make_raw_image(model.source, 1);
  EXPECT_TRUE(image.ok()) << image.status().message();
  auto file = NwcFile::open(std::move(image).value());
  EXPECT_TRUE(file.ok()) << file.status().message();
  model.file = std::move(file).value();
  auto decoder = create_cpu_decoder(*model.file, *model.runner, detect_cpu_level());
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  model.decoder = std::move(decoder).value();
  return model;
}

void expect_same(const ModelSource& original, const ModelSource& back, Dtype dtype) {
  ASSERT_TRUE(back.model()) << join_notes(back.notes(), NoteKind::kModelLeftOut);
  ASSERT_TRUE(back.tokenizer()) << join_notes(back.notes(), NoteKind::kTokenizerLeftOut);
  EXPECT_EQ(serialize(*back.model()), serialize(*original.model()));
  EXPECT_EQ(serialize(*back.tokenizer()), serialize(*original.tokenizer()));
  ASSERT_EQ(back.tensors().size(), original.tensors().size());
  for (size_t i = 0; i < original.tensors().size(); ++i) {
    const SourceTensor& tensor = original.tensors()[i];
    const auto at = back.find(tensor.name);
    ASSERT_TRUE(at) << tensor.name;
    EXPECT_EQ(back.tensors()[*at].shape, tensor.shape);
    EXPECT_EQ(back.tensors()[*at].dtype, tensor.shape.size() == 1 ? Dtype::kF32 : dtype) << tensor.name;
    std::vector<float> expected = *original.read_f32(i);
    if (dtype == Dtype::kF16 && tensor.shape.size() == 2) {
      for (float& value : expected) value = f16_to_f32(f32_to_f16(value));
    }
    EXPECT_EQ(*back.read_f32(*at), expected) << tensor.name;
  }
}

TEST(DecompressToGguf, ReadsBackTheSameModel) {
  const TempDir folder;
  const Model model = open(kModel);
  for (const Dtype dtype : {Dtype::kF16, Dtype::kF32, Dtype::kBf16}) {
    std::vector<std::string> left_out;
    const Status status = model.convert(type_name(dtype), folder.file("m.gguf"), &left_out);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(left_out.empty());
    const auto back = open_model_source(folder.file("m.gguf"));
    ASSERT_TRUE(back.ok()) << back.status().message();
    expect_same(*model.source, **back, dtype);
  }
  EXPECT_EQ(folder.count(), 1u);
}

TEST(DecompressToGguf, KeepsRotaryScalingAndSeparateHead) {
  const TempDir folder;
  const Model scaled = open(kScaledRope);
  ASSERT_EQ(scaled.source->model()->block().rope.scaling, RopeScaling::kLlama3);
  const Model separate = open(kSeparateHead, [](Changed& changed) {
    changed.invent_tokenizer();
    changed.drop_rope_scaling();
  });
  ASSERT_FALSE(separate.source->model()->tied_embeddings);
  for (const Model* model : {&scaled, &separate}) {
    std::vector<std::string> left_out;
    const Status status = model->convert("f32", folder.file("m.gguf"), &left_out);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto back = open_model_source(folder.file("m.gguf"));
    ASSERT_TRUE(back.ok()) << back.status().message();
    expect_same(*model->source, **back, Dtype::kF32);
  }
}

TEST(DecompressToGguf, NamesWhatItLeavesOut) {
  const TempDir folder;
  const Model model = open(kModel, [](Changed& changed) { changed.add_f32("model.extra", {4}); });
  std::vector<std::string> left_out;
  ASSERT_TRUE(model.convert("f16", folder.file("m.gguf"), &left_out).ok());
  ASSERT_EQ(left_out.size(), 1u);
  EXPECT_NE(left_out[0].find("model.extra"), std::string::npos) << left_out[0];
}

TEST(DecompressToGguf, Refuses) {
  const TempDir folder;
  std::vector<std::string> left_out;
  const auto expect_error = [&](const Model& model, Dtype dtype, StatusCode code, const std::string& part) {
    const Status status = model.convert(type_name(dtype), folder.file("m.gguf"), &left_out);
    EXPECT_EQ(status.code(), code);
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    EXPECT_EQ(folder.count(), 0u);
  };
  expect_error(open(kModel, [](Changed& changed) { changed.drop_tokenizer(); }), Dtype::kF16, StatusCode::kUnsupported,
               "has no tokenizer");
  // 1e6 in place of an existing matrix.
  const auto too_large = [](Changed& changed) {
    changed.rename("model.layers.0.mlp.up_proj.weight", "spare");
    changed.add_f32("model.layers.0.mlp.up_proj.weight", {512, 192});
  };
  expect_error(open(kModel, too_large), Dtype::kF16, StatusCode::kUnsupported, "ffn_up");
}

}  // namespace
}  // namespace nwc
