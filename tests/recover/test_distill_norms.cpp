// Gains of gutenlm with coarsely rounded matrices are tuned until its predictions come back to the original's.
#include "runtime/base/half.h"
#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "tests/llm/trained_model.h"
#include "trainer/data/stored_float.h"
#include "trainer/recover/distill_norms.h"

namespace nwc::test {
namespace {

constexpr uint32_t kContext = 128;
constexpr size_t kTokens = 16 * kContext;

/// A model with other weights here and there.
class ChangedSource final : public ModelSource {
 public:
  explicit ChangedSource(const ModelSource& source) : source_(source), tensors_(source.tensors()) {
    for (SourceTensor& t : tensors_) t.dtype = Dtype::kF32;
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::optional<ModelRecord>& model() const override { return source_.model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return source_.tokenizer(); }
  uint64_t stored_bytes() const override { return source_.stored_bytes(); }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    NWC_ASSIGN_OR_RETURN(std::vector<float> values, source_.read_f32(tensor));
    const auto at = changed_.find(tensor);
    if (at != changed_.end()) values = at->second;
    for (size_t i = 0; i < values.size(); ++i) store_float(Dtype::kF32, values[i], i, out);
    return {};
  }
  std::map<size_t, std::vector<float>> changed_;

 private:
  const ModelSource& source_;
  std::vector<SourceTensor> tensors_;
};

class DistillNorms : public ::testing::Test {
 protected:
  void SetUp() override {
    auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
    ASSERT_TRUE(source.ok()) << source.status().message();
    source_ = std::move(source).value();
    coded_ = std::make_unique<ChangedSource>(*source_);
    for (size_t t = 0; t < source_->tensors().size(); ++t) {
      const bool matrix = source_->tensors()[t].shape.size() == 2;
      replaceable_.push_back(!matrix);
      if (!matrix) continue;
      std::vector<float> values = source_->read_f32(t).value();
      double squares = 0;
      for (const float v : values) squares += double{v} * double{v};
      const float step = 0.5f * static_cast<float>(std::sqrt(squares / static_cast<double>(values.size())));
      for (float& v : values) v = std::round(v / step) * step;
      coded_->changed_[t] = std::move(values);
    }
    const auto tokenizer = Tokenizer::create(*source_->tokenizer());
    auto tokens = (*tokenizer)->encode(load_file(NWC_SOURCE_DIR "/models/sample.txt"), {.add_special = false});
    ASSERT_TRUE(tokens.ok());
    tokens->resize(kTokens);
    choices_.tokens = std::move(tokens).value();
    choices_.context = kContext;
    choices_.batch_tokens = 4 * kContext;
  }
  Result<DistillResult> distill(uint32_t threads = 2, const Progress& progress = {}) const {
    const auto runner = make_thread_pool(threads);
    return distill_norms(*source_, *coded_, replaceable_, choices_, *runner, progress, log_);
  }
  /// The mean KL divergence on the sequences that judge, computed with whole models: every eighth one.
  double divergence(const ModelSource& coded) const {
    const TrainedModel p = load_trained(*source_, kContext), q = load_trained(coded, kContext);
    double sum = 0;
    for (const size_t sequence : {7u, 15u}) {
      const auto tokens = std::span(choices_.tokens).subspan(sequence * kContext, kContext);
      const RowMatrix<double> a = logits(p, run_layers(p, embed(p, tokens))).cast<double>();
      const RowMatrix<double> b = logits(q, run_layers(q, embed(q, tokens))).cast<double>();
      for (Eigen::Index t = 0; t < a.rows(); ++t) {
        const RowVector<double> log_p = a.row(t).array() - std::log(a.row(t).array().exp().sum());
        const RowVector<double> log_q = b.row(t).array() - std::log(b.row(t).array().exp().sum());
        sum += (log_p.array().exp() * (log_p - log_q).array()).sum();
      }
    }
    return sum / (2 * kContext);
  }

  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<ChangedSource> coded_;
  std::vector<bool> replaceable_;
  DistillChoices choices_;
  mutable std::vector<std::string> said_;
  Logger log_{[](void* user, LogLevel, const char* text) {
                static_cast<std::vector<std::string>*>(user)->emplace_back(text);
              },
              &said_};
};

TEST_F(DistillNorms, BringsPredictionsCloserByWhatItSays) {
  const Result<DistillResult> result = distill();
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_NEAR(result->before / divergence(*coded_), 1, 1e-4);
  EXPECT_LT(result->after, 0.97 * result->before);
  EXPECT_GT(result->best_epoch, 0u);
  EXPECT_EQ(result->values.size(), 13u);  // two norms of each layer, and the last one
  for (const auto& [tensor, values] : result->values) {
    EXPECT_EQ(values.size(), 192u);
    for (const float v : values) EXPECT_EQ(v, rounded_to(Dtype::kBf16, v));
    coded_->changed_[tensor] = values;
  }
  EXPECT_NEAR(result->after / divergence(*coded_), 1, 1e-4);
}

TEST_F(DistillNorms, IsTheSameAtAnyNumberOfThreads) {
  choices_.epochs = 1;
  const Result<DistillResult> one = distill(1), three = distill(3);
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->values, three->values);
  EXPECT_EQ(one->after, three->after);
}

TEST_F(DistillNorms, TouchesOnlyWhatItMay) {
  choices_.epochs = 1;
  const size_t kept = source_->find("model.norm.weight").value();
  replaceable_[kept] = false;
  const Result<DistillResult> result = distill();
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->values.size(), 12u);
  EXPECT_EQ(result->values.count(kept), 0u);
  replaceable_.assign(replaceable_.size(), false);
  const Result<DistillResult> nothing = distill();
  ASSERT_TRUE(nothing.ok()) << nothing.status().message();
  EXPECT_TRUE(nothing->values.empty());
}

// A step that is far too long does no harm.
TEST_F(DistillNorms, KeepsWhatIsThereUnlessSomethingIsBetter) {
  choices_.epochs = 1;
  choices_.learning_rate = 10;
  const Result<DistillResult> result = distill();
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->best_epoch, 0u);
  EXPECT_EQ(result->after, result->before);
  EXPECT_TRUE(result->values.empty());
}

// What is kept lies between two epochs or inside one of them; in the last case it is damaged, and of another text.
TEST_F(DistillNorms, AnInterruptedRunGoesOnToTheSameEnd) {
  const Result<DistillResult> whole = distill();
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  const TempDir dir;
  const auto stopping_at = [](double* share) {
    return Progress{[](void* user, uint64_t done, uint64_t total) {
                      return static_cast<double>(done) < *static_cast<double*>(user) * static_cast<double>(total);
                    },
                    share};
  };
  RecoveryFiles files(dir.file("recovery"));
  choices_.files = &files;
  choices_.keep_seconds = 0;
  for (double share : {0.35, 0.65, 0.9}) {
    ASSERT_EQ(distill(2, stopping_at(&share)).status().code(), StatusCode::kCancelled);
    said_.clear();
    const Result<DistillResult> rest = distill(1);
    ASSERT_TRUE(rest.ok()) << rest.status().message();
    ASSERT_EQ(said_.size(), 1u);
    EXPECT_NE(said_[0].find("updates are taken from an earlier run"), std::string::npos) << said_[0];
    EXPECT_EQ(said_[0].find(" 0 updates"), std::string::npos) << said_[0];
    EXPECT_EQ(rest->values, whole->values);
    EXPECT_EQ(rest->before, whole->before);
    EXPECT_EQ(rest->after, whole->after);
    files.remove({});
    EXPECT_FALSE(std::filesystem::exists(files.folder()));
  }
  double half = 0.5;
  ASSERT_EQ(distill(2, stopping_at(&half)).status().code(), StatusCode::kCancelled);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(files.folder())) {
    if (!entry.is_regular_file()) continue;
    std::string bytes = load_file(entry.path().string());
    bytes[bytes.size() - 9] ^= 1;
    dir.write(std::filesystem::relative(entry.path(), dir.path()).string(), bytes);
  }
  said_.clear();
  const Result<DistillResult> anew = distill();
  ASSERT_TRUE(anew.ok()) << anew.status().message();
  EXPECT_EQ(anew->values, whole->values);
  ASSERT_EQ(said_.size(), 1u);
  EXPECT_NE(said_[0].find("its checksum is wrong"), std::string::npos) << said_[0];
  ASSERT_EQ(distill(2, stopping_at(&half)).status().code(), StatusCode::kCancelled);
  std::swap(choices_.tokens[0], choices_.tokens[kContext + 1]);
  said_.clear();
  ASSERT_TRUE(distill().ok());
  EXPECT_TRUE(said_.empty()) << said_[0];
}

TEST_F(DistillNorms, CanBeCancelledAndSaysWhatIsWrong) {
  const Progress stop{[](void*, uint64_t done, uint64_t total) { return done < total / 2; }, nullptr};
  EXPECT_EQ(distill(2, stop).status().code(), StatusCode::kCancelled);
  choices_.tokens.clear();
  EXPECT_EQ(distill().status().code(), StatusCode::kInvalidArgument);
  choices_.tokens = {1024};  // beyond the vocabulary
  EXPECT_EQ(distill().status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nwc::test
