// Every family of models calibrated, compressed with and without recovery fine-tuning, correction of drift and
// distillation, and evaluated against the original: the file is closer than one that was made without a text.
#include "tests/data/temp_dir.h"
#include "tests/engine/family_fixture.h"
#include "trainer/calib/calibration.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/encode/encoder.h"
#include "trainer/eval/evaluate.h"
#include "trainer/llm/model_graph.h"

namespace nwc::test {
namespace {

constexpr uint32_t kVocabulary = 96, kContext = 16, kTokens = 4096;
/// Windows of the fixtures are of 8 and 12 tokens.
static_assert(kContext > 12);

/// A fixture with a tokenizer: each printable character is a token.
class FamilySource final : public ModelSource {
 public:
  explicit FamilySource(const std::string& folder) {
    auto source = open_model_source(folder);
    EXPECT_TRUE(source.ok()) << source.status().message();
    base_ = std::move(source).value();
    tokenizer_.emplace();
    for (char c = ' '; c <= '~'; ++c) tokenizer_->tokens.push_back({std::string(1, c)});
    tokenizer_->tokens.push_back({"", TokenType::kUnknown});
    EXPECT_EQ(tokenizer_->tokens.size(), kVocabulary);
  }
  const std::vector<SourceTensor>& tensors() const override { return base_->tensors(); }
  Status read_raw(size_t tensor, MutableBytes out) const override { return base_->read_raw(tensor, out); }
  const std::optional<ModelRecord>& model() const override { return base_->model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return tokenizer_; }
  uint64_t stored_bytes() const override { return base_->stored_bytes(); }

 private:
  std::unique_ptr<ModelSource> base_;
  std::optional<TokenizerRecord> tokenizer_;
};

/// Prose in one line.
std::string sample_text() {
  std::string text;
  for (const char c : load_file(NWC_SOURCE_DIR "/models/sample.txt")) {
    if (c == '\n') text += ' ';
    if (c >= ' ' && c <= '~') text += c;
  }
  return text;
}

class FamilyPlan : public ::testing::TestWithParam<std::string> {};

class FamilyCalibration : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
    fixture_ = make_family(GetParam());
    source_ = std::make_unique<FamilySource>(fixture_.folder);
    original_ = load_model(fixture_.folder);
    options_.min_elements = 256;
    options_.threads = 2;
    runner_ = make_thread_pool(2);
    CalibrationOptions calibration;
    calibration.tokens = kTokens;
    calibration.context = kContext;
    auto done = Calibration::run(*source_, sample_text(), calibration, dir_.file("calibration"), *runner_, {}, {});
    ASSERT_TRUE(done.ok()) << done.status().message();
    calibration_ = std::move(done).value();
  }

  Evaluation compress_and_evaluate(const Calibration* calibration, bool recovery, bool distillation = false,
                                   bool drift = false) {
    options_.calibration = calibration;
    // As `nwc compress` chooses.
    options_.choices.rdo_strength = calibration != nullptr && !recovery ? 0 : 0.5;
    options_.choices.shrinkage = calibration == nullptr || recovery;
    options_.recovery.tune = recovery;
    options_.recovery.drift.enabled = drift;
    options_.recovery.context = kContext;
    options_.recovery.options.epochs = 4;
    options_.recovery.options.batch_tokens = 512;
    options_.distillation.enabled = distillation;
    options_.distillation.context = kContext;
    options_.distillation.batch_tokens = 512;
    const std::string path = dir_.file("model.nwc");
    Evaluation nothing;
    if (recovery || drift) {
      auto tokens = calibration_tokens(*source_, sample_text(), 2048, kContext);
      EXPECT_TRUE(tokens.ok()) << tokens.status().message();
      options_.recovery.tokens = std::move(tokens).value();
    }
    if (distillation) {
      auto tokens = calibration_tokens(*source_, sample_text(), 2048, kContext);
      EXPECT_TRUE(tokens.ok()) << tokens.status().message();
      options_.distillation.tokens = std::move(tokens).value();
    }
    const auto report = compress_model(*source_, identity_codec(), options_, path, {}, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    if (!report.ok()) return nothing;
    EXPECT_NEAR(report->bpw_coded, options_.bits, 0.02);
    EXPECT_EQ(report->kld_before_distillation > 0, distillation);
    EXPECT_LE(report->kld_after_distillation, report->kld_before_distillation);
    auto reader = open_file_reader(path);
    EXPECT_TRUE(reader.ok());
    auto file = NwcFile::open(std::move(reader).value());
    EXPECT_TRUE(file.ok()) << file.status().message();
    if (!file.ok()) return nothing;
    auto decoder = create_cpu_decoder(**file, *runner_, detect_cpu_level());
    EXPECT_TRUE(decoder.ok()) << decoder.status().message();
    if (!decoder.ok()) return nothing;
    SessionParams params;
    params.weight_dtype = Dtype::kF32;
    params.kv_dtype = Dtype::kF32;
    params.context = kContext;
    auto session = Session::create(**file, **decoder, *runner_, params);
    EXPECT_TRUE(session.ok()) << session.status().message();
    if (!session.ok()) return nothing;
    Bench reference = make_bench(original_, params);
    // Behind what calibration has seen.
    auto tokens = calibration_tokens(*source_, sample_text().substr(kTokens), 2048, kContext);
    EvaluationParams windows;
    windows.context = kContext;
    const auto result = evaluate(**session, reference.session.get(), *runner_, *tokens, windows);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? *result : nothing;
  }

  const TempDir dir_;
  FamilyFixture fixture_;
  std::unique_ptr<FamilySource> source_;
  PlainModel original_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Calibration> calibration_;
  CompressOptions options_;
};

// One calibration for both questions: it takes most of the time.
TEST_P(FamilyCalibration, CoversEveryMatrixAndBringsTheFileCloser) {
  const bool mixture = source_->model()->block().experts.num_experts != 0;
  for (const double bits : {3.0, 4.0}) {
    if (mixture && bits > 3) continue;  // takes long, and differs from dense models in its statistics, not in rates
    options_.bits = bits;
    const Evaluation plain = compress_and_evaluate(nullptr, false);
    const Evaluation calibrated = compress_and_evaluate(calibration_.get(), false);
    const Evaluation recovered = compress_and_evaluate(calibration_.get(), true);
    EXPECT_LT(calibrated.kld_mean, plain.kld_mean) << bits << " bits";
    EXPECT_LT(recovered.kld_mean, calibrated.kld_mean) << bits << " bits";
    if (bits > 3) continue;  // the same again
    const Evaluation corrected = compress_and_evaluate(calibration_.get(), false, false, true);
    EXPECT_LT(corrected.kld_mean, calibrated.kld_mean) << bits << " bits";
    const Evaluation distilled = compress_and_evaluate(calibration_.get(), false, true);
    EXPECT_LT(distilled.kld_mean, calibrated.kld_mean) << bits << " bits";
  }
  for (const PlannedTensor& planned : plan_model(*source_, 1)) {
    const SourceTensor& tensor = source_->tensors()[planned.source];
    SCOPED_TRACE(tensor.name);
    EXPECT_EQ(calibration_->covers(tensor.name), planned.coded);
    if (!planned.coded) continue;
    const auto statistics = calibration_->load(tensor.name, HessianKind::kFisher);
    ASSERT_TRUE(statistics.ok()) << statistics.status().message();
    EXPECT_EQ(statistics->m, tensor.shape[0]);
    EXPECT_EQ(statistics->n, tensor.shape[1]);
  }
}

TEST_P(FamilyPlan, LayersLieInTheOrderOfTheirUse) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture fixture = make_family(GetParam());
  const FamilySource source(fixture.folder);
  const auto graph = ModelGraph::open(source, kContext);
  ASSERT_TRUE(graph.ok()) << graph.status().message();
  const std::vector<PlannedTensor> plan = plan_model(source, 256);
  const auto at = [&](size_t tensor) {
    const auto found =
        std::find_if(plan.begin(), plan.end(), [&](const PlannedTensor& p) { return p.source == tensor; });
    return found - plan.begin();
  };
  EXPECT_EQ(plan[static_cast<size_t>(at(graph->layout().embedding))].group, 0u);
  for (uint32_t l = 0; l < graph->num_layers(); ++l) {
    const size_t matrices = graph->layer(l).matrices().size();
    for (size_t m = 0; m < matrices; ++m) {
      const auto place = at(graph->matrix_tensor(l, m));
      EXPECT_EQ(plan[static_cast<size_t>(place)].group, l + 1) << graph->matrix_name(l, m);
      if (m >= graph->layer(l).first_expert_matrix()) continue;  // by their names
      const auto before = m > 0 ? at(graph->matrix_tensor(l, m - 1)) : -1;
      EXPECT_LT(before, place) << graph->matrix_name(l, m);
    }
    for (size_t v = 0; v < graph->layer(l).vectors().size(); ++v)
      EXPECT_EQ(plan[static_cast<size_t>(at(graph->vector_tensor(l, v)))].group, l + 1);
  }
  const auto head = static_cast<size_t>(at(graph->layout().head));
  EXPECT_EQ(plan[head].group, graph->model().tied_embeddings ? 0 : graph->num_layers() + 1);
}

// Experts' tokens lie in the pieces in any number, and are added up in the pieces' order.
TEST(MixtureCalibration, HasTheSameBytesAtAnyNumberOfThreads) {
  const FamilyFixture fixture = make_family("gpt_oss");
  const FamilySource source(fixture.folder);
  CalibrationOptions options;
  options.tokens = 2048;
  options.context = kContext;
  const TempDir dir;
  std::vector<std::vector<uint8_t>> files;
  for (const uint32_t threads : {1u, 3u}) {
    const std::string folder = dir.file(std::to_string(threads));
    const auto runner = make_thread_pool(threads);
    const auto done = Calibration::run(source, sample_text(), options, folder, *runner, {}, {});
    ASSERT_TRUE(done.ok()) << done.status().message();
    const std::string bytes = load_file(folder + "/layer-1.safetensors");
    files.emplace_back(bytes.begin(), bytes.end());
  }
  EXPECT_EQ(files[0], files[1]);
}

INSTANTIATE_TEST_SUITE_P(All, FamilyPlan, ::testing::ValuesIn(family_names()), [](const auto& i) { return i.param; });
INSTANTIATE_TEST_SUITE_P(All, FamilyCalibration, ::testing::ValuesIn(family_names()),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
