// Compares the statistics with the KL divergence that an error of a matrix causes, which they predict. Checks that the
// files have the same bytes at any number of threads, after an interruption, and from temporary files.
#include <filesystem>
#include <map>

#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "tests/llm/trained_model.h"
#include "trainer/calib/calibration.h"
#include "trainer/eval/evaluate.h"
#include "trainer/nn/random.h"

namespace nwc::test {
namespace {

const std::string kModel = NWC_SOURCE_DIR "/models/gutenlm-2.6m";
constexpr uint32_t kContext = 256;
const std::string kEmbeddingName = "model.embed_tokens.weight";
const std::string kHeadName = "lm_head.weight";
const std::string kFinalNormName = "model.norm.weight";

std::string matrix_name(uint32_t layer, const std::string& part) {
  return "model.layers." + std::to_string(layer) + "." + part + "_proj.weight";
}
const std::string kQ = "self_attn.q", kK = "self_attn.k", kV = "self_attn.v", kO = "self_attn.o";
const std::string kUp = "mlp.up", kDown = "mlp.down";

std::unique_ptr<ModelSource> open_gutenlm() {
  auto source = open_model_source(kModel);
  EXPECT_TRUE(source.ok()) << source.status().message();
  return std::move(source).value();
}

std::string sample_text() { return load_file(NWC_SOURCE_DIR "/models/sample.txt"); }

Result<std::unique_ptr<Calibration>> calibrate(const ModelSource& source, const std::string& text, uint64_t tokens,
                                               const std::string& folder, uint32_t threads = 2,
                                               uint64_t memory = uint64_t{1} << 30, Progress progress = {},
                                               Logger log = {}) {
  CalibrationOptions options;
  options.tokens = tokens;
  options.memory_bytes = memory;
  options.activations = true;
  const auto runner = make_thread_pool(threads);
  return Calibration::run(source, text, options, folder, *runner, progress, log);
}

/// Mean over tokens of KL(softmax(a) || softmax(b)), nats.
double mean_kl(const RowMatrix<float>& a, const RowMatrix<float>& b) {
  const size_t vocab = static_cast<size_t>(a.cols());
  double total = 0;
  for (Eigen::Index t = 0; t < a.rows(); ++t) {
    const float *p = a.data() + t * a.cols(), *q = b.data() + t * b.cols();
    const double p_norm = log_sum_exp({p, vocab}), q_norm = log_sum_exp({q, vocab});
    for (size_t v = 0; v < vocab; ++v) {
      const double log_p = p[v] - p_norm;
      total += std::exp(log_p) * (log_p - (q[v] - q_norm));
    }
  }
  return total / static_cast<double>(a.rows());
}

/// 1/2 sum_r rho_r e_r H e_r^T
double predicted_kl(const TensorStatistics& s, const RowMatrix<float>& e) {
  const RowMatrix<double> h = ConstMatrixMap<float>(s.hessian.data(), e.cols(), e.cols()).cast<double>();
  const RowMatrix<double> error = e.cast<double>();
  const Eigen::VectorXd rows = (error * h).cwiseProduct(error).rowwise().sum();
  double total = 0;
  for (Eigen::Index r = 0; r < e.rows(); ++r) total += double{s.row_importance[static_cast<size_t>(r)]} * rows[r];
  return total / 2;
}

class Predictor {
 public:
  Predictor(const ModelSource& source, std::vector<uint32_t> tokens, const Calibration& calibration)
      : model_(load_trained(source, kContext)), tokens_(std::move(tokens)), calibration_(calibration) {
    RowMatrix<float> x = embed(model_, tokens_);
    const uint32_t layers = model_.graph.num_layers();
    for (uint32_t l = 0; l <= layers; ++l) {
      boundary_.push_back(x);
      if (l < layers) x = run_layers(model_, x, l, l + 1);
    }
    reference_ = logits(model_, x);
  }

  struct Outcome {
    double measured = 0, predicted = 0;
  };
  /// Means over Gaussian errors of the size of 2 % of the matrix.
  Outcome linear(uint32_t layer, size_t m, int trials, double size = 0.02) {
    RowMatrix<float>& w = model_.layers[layer].matrices[m];
    return average(model_.graph.matrix_name(layer, m), &w, trials, size,
                   [&] { return logits(model_, run_layers(model_, boundary_[layer], layer)); });
  }
  Outcome embedding(int trials, double size = 0.02) {
    return average(kEmbeddingName, &model_.embedding, trials, size, [&] {
      if (model_.graph.model().tied_embeddings) model_.head.matrix = model_.embedding;
      return logits(model_, run_layers(model_, embed(model_, tokens_)));
    });
  }
  Outcome head(int trials, double size = 0.02) {
    return average(kHeadName, &model_.head.matrix, trials, size, [&] { return logits(model_, boundary_.back()); });
  }

 private:
  template <typename Forward>
  Outcome average(const std::string& name, RowMatrix<float>* w, int trials, double size, const Forward& forward) {
    const auto statistics = calibration_.load(name, HessianKind::kFisher);
    EXPECT_TRUE(statistics.ok()) << statistics.status().message();
    const RowMatrix<float> original = *w;
    const double deviation = size * std::sqrt(double{original.squaredNorm()} / static_cast<double>(original.size()));
    Outcome out;
    for (int i = 0; i < trials; ++i) {
      Random random({17, static_cast<uint64_t>(i)});
      RowMatrix<float> e(w->rows(), w->cols());
      for (Eigen::Index k = 0; k < e.size(); ++k) e.data()[k] = static_cast<float>(deviation * random.normal());
      *w = original + e;
      out.measured += mean_kl(reference_, forward()) / trials;
      out.predicted += predicted_kl(*statistics, e) / trials;
    }
    *w = original;
    if (model_.graph.model().tied_embeddings) model_.head.matrix = model_.embedding;
    return out;
  }

  TrainedModel model_;
  std::vector<uint32_t> tokens_;
  const Calibration& calibration_;
  std::vector<RowMatrix<float>> boundary_;
  RowMatrix<float> reference_;
};

std::vector<uint32_t> tokenize(const ModelSource& source, const std::string& text, size_t count) {
  auto tokenizer = Tokenizer::create(*source.tokenizer());
  EXPECT_TRUE(tokenizer.ok());
  auto tokens = (*tokenizer)->encode(text, {.add_special = false});
  EXPECT_TRUE(tokens.ok());
  tokens->resize(std::min(tokens->size(), count));
  return *tokens;
}

/// gutenlm with changes.
class EditedSource final : public ModelSource {
 public:
  EditedSource() : base_(open_gutenlm()), tensors_(base_->tensors()), model_(base_->model()) {
    for (size_t i = 0; i < tensors_.size(); ++i) from_.push_back(i);
  }
  void drop(const std::string& name) {
    const auto at = static_cast<std::ptrdiff_t>(*find(name));
    tensors_.erase(tensors_.begin() + at);
    from_.erase(from_.begin() + at);
  }
  SourceTensor& tensor(const std::string& name) { return tensors_[*find(name)]; }
  /// A head of its own, equal to the embedding.
  void untie() {
    model_->tied_embeddings = false;
    tensors_.push_back(tensor(kEmbeddingName));
    tensors_.back().name = kHeadName;
    from_.push_back(from_[*find(kEmbeddingName)]);
  }
  ModelRecord& record() { return *model_; }
  void forget_tokenizer() { with_tokenizer_ = false; }
  /// This tensor's first element, of type BF16.
  void poison(const std::string& name, uint16_t value) {
    poisoned_ = name;
    value_ = value;
  }

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    NWC_TRY(base_->read_raw(from_[tensor], out));
    if (tensors_[tensor].name == poisoned_) store_le(out.data(), value_);
    return {};
  }
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override {
    return with_tokenizer_ ? base_->tokenizer() : none_;
  }
  uint64_t stored_bytes() const override { return base_->stored_bytes(); }

 private:
  std::unique_ptr<ModelSource> base_;
  std::vector<SourceTensor> tensors_;
  std::vector<size_t> from_;
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> none_;
  bool with_tokenizer_ = true;
  std::string poisoned_;
  uint16_t value_ = 0;
};

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files[entry.path().filename().string()] = load_file(entry.path().string());
  }
  return files;
}

void expect_near_ratio(const Predictor::Outcome& out, double tolerance, const std::string& what) {
  EXPECT_GT(out.predicted / out.measured, 1 / tolerance) << what << ": measured " << out.measured;
  EXPECT_LT(out.predicted / out.measured, tolerance) << what << ": measured " << out.measured;
}

TEST(Calibration, PredictsTheDivergenceOfAnError) {
  const auto source = open_gutenlm();
  const TempDir dir;
  constexpr size_t kTokens = 3072;
  const auto calibration = calibrate(*source, sample_text(), kTokens, dir.path());
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  EXPECT_EQ((*calibration)->tokens(), kTokens);
  Predictor predictor(*source, tokenize(*source, sample_text(), kTokens), **calibration);
  for (size_t m = 0; m < 7; ++m) expect_near_ratio(predictor.linear(3, m, 2), 1.25, "matrix " + std::to_string(m));
  expect_near_ratio(predictor.linear(0, 2, 2), 1.5, matrix_name(0, kV));
  expect_near_ratio(predictor.embedding(2), 1.15, "embedding");
}

// With a matrix of its own on each side, each side's prediction must hold alone.
TEST(Calibration, PredictsEmbeddingAndHeadApart) {
  EditedSource source;
  source.untie();
  const TempDir dir;
  constexpr size_t kTokens = 3072;
  const auto calibration = calibrate(source, sample_text(), kTokens, dir.path());
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  Predictor predictor(source, tokenize(source, sample_text(), kTokens), **calibration);
  expect_near_ratio(predictor.embedding(2), 1.25, "embedding");
  expect_near_ratio(predictor.head(2), 1.15, "head");
  EXPECT_EQ((*calibration)->load(kEmbeddingName, HessianKind::kActivation).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE((*calibration)->load(kHeadName, HessianKind::kActivation).ok());
}

TEST(Calibration, LoadsWhatItPromises) {
  const auto source = open_gutenlm();
  const TempDir dir;
  const auto calibration = calibrate(*source, sample_text(), 600, dir.path());
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  const Calibration& c = **calibration;
  EXPECT_EQ(c.hash().size(), 16u);
  EXPECT_TRUE(c.covers(kEmbeddingName));
  EXPECT_FALSE(c.covers(kHeadName));
  EXPECT_FALSE(c.covers(kFinalNormName));
  EXPECT_EQ(c.load(kFinalNormName, HessianKind::kFisher).status().code(), StatusCode::kInvalidArgument);
  for (const std::string& name : {std::string(kEmbeddingName), matrix_name(2, kDown), matrix_name(5, kK)}) {
    const SourceTensor& tensor = source->tensors()[*source->find(name)];
    for (const HessianKind kind : {HessianKind::kActivation, HessianKind::kFisher}) {
      const auto s = c.load(name, kind);
      ASSERT_TRUE(s.ok()) << s.status().message();
      EXPECT_EQ(s->m, tensor.shape[0]);
      EXPECT_EQ(s->n, tensor.shape[1]);
      ASSERT_EQ(s->hessian.size(), s->n * s->n);
      ASSERT_EQ(s->row_importance.size(), s->m);
      // Unequal weights: less than the text has, but not next to nothing.
      if (kind == HessianKind::kFisher) {
        EXPECT_GT(s->effective_tokens, 5) << name;
        EXPECT_LT(s->effective_tokens, 600) << name;
      } else {
        EXPECT_EQ(s->effective_tokens, 0) << name;
      }
      double sum = 0;
      for (const float v : s->row_importance) sum += double{v};
      EXPECT_NEAR(sum / static_cast<double>(s->m), 1, 1e-3);
      for (size_t i = 0; i < s->n; ++i) {
        EXPECT_GT(s->hessian[i * s->n + i], 0) << name;
        EXPECT_EQ(s->hessian[i * s->n + 3], s->hessian[3 * s->n + i]) << name;
      }
    }
  }
  // q, k and v see the same activations.
  EXPECT_EQ(c.load(matrix_name(4, kQ), HessianKind::kActivation)->hessian,
            c.load(matrix_name(4, kV), HessianKind::kActivation)->hessian);
}

TEST(Calibration, KeepsActivationsOnlyWhereTheyAreAskedFor) {
  const auto source = open_gutenlm();
  const TempDir with, without;
  const auto both = calibrate(*source, sample_text(), 600, with.path());
  ASSERT_TRUE(both.ok()) << both.status().message();
  CalibrationOptions options;
  options.tokens = 600;
  const auto runner = make_thread_pool(2);
  const auto fisher = Calibration::run(*source, sample_text(), options, without.path(), *runner, {}, {});
  ASSERT_TRUE(fisher.ok()) << fisher.status().message();
  EXPECT_NE((*both)->hash(), (*fisher)->hash());
  const std::string name = matrix_name(2, kDown);
  EXPECT_EQ((*fisher)->load(name, HessianKind::kFisher)->hessian, (*both)->load(name, HessianKind::kFisher)->hessian);
  const Status none = (*fisher)->load(name, HessianKind::kActivation).status();
  EXPECT_EQ(none.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(none.message().find("no activations"), std::string::npos) << none.message();
}

TEST(Calibration, SameBytesAtAnyNumberOfThreadsAndFromFiles) {
  const auto source = open_gutenlm();
  const TempDir one, three, files;
  ASSERT_TRUE(calibrate(*source, sample_text(), 1200, one.path(), 1).ok());
  ASSERT_TRUE(calibrate(*source, sample_text(), 1200, three.path(), 3).ok());
  // No memory for hidden states: all of them through scratch files, of which none stays.
  ASSERT_TRUE(calibrate(*source, sample_text(), 1200, files.path(), 2, 0).ok());
  const auto expected = contents(one.path());
  EXPECT_EQ(expected.size(), 8u);  // six blocks, embedding, index
  EXPECT_TRUE(expected == contents(three.path()));
  EXPECT_TRUE(expected == contents(files.path()));
}

TEST(Calibration, ContinuesWhatWasInterrupted) {
  const auto source = open_gutenlm();
  const TempDir whole, parts;
  ASSERT_TRUE(calibrate(*source, sample_text(), 1200, whole.path()).ok());
  uint64_t stop = 0;
  const Progress progress{[](void* user, uint64_t done, uint64_t total) {
                            const uint64_t stop_percent = *static_cast<uint64_t*>(user);
                            return done * 100 < total * stop_percent;
                          },
                          &stop};
  for (stop = 20; stop < 100; stop += 30) {
    const auto cancelled = calibrate(*source, sample_text(), 1200, parts.path(), 2, uint64_t{1} << 30, progress);
    EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
    EXPECT_EQ(Calibration::open(parts.path()).status().code(), StatusCode::kNotFound);
  }
  EXPECT_TRUE(std::filesystem::exists(parts.file("layer-5.safetensors")));
  const auto written = std::filesystem::last_write_time(parts.file("layer-5.safetensors"));
  ASSERT_TRUE(calibrate(*source, sample_text(), 1200, parts.path()).ok());
  EXPECT_EQ(std::filesystem::last_write_time(parts.file("layer-5.safetensors")), written) << "done twice";
  EXPECT_TRUE(contents(whole.path()) == contents(parts.path()));
  // Finished: nothing is computed, so that nothing can be cancelled.
  stop = 0;
  EXPECT_TRUE(calibrate(*source, sample_text(), 1200, parts.path(), 2, uint64_t{1} << 30, progress).ok());
}

TEST(Calibration, AnotherTextReplacesTheResult) {
  const auto source = open_gutenlm();
  const TempDir dir, fresh;
  const std::string other = sample_text().substr(20000);
  const auto first = calibrate(*source, sample_text(), 600, dir.path());
  const auto second = calibrate(*source, other, 600, dir.path());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE((*first)->hash(), (*second)->hash());
  ASSERT_TRUE(calibrate(*source, other, 600, fresh.path()).ok());
  EXPECT_TRUE(contents(dir.path()) == contents(fresh.path()));
  // The first one's files are gone, and it says so.
  EXPECT_EQ((*first)->load(matrix_name(0, kQ), HessianKind::kFisher).status().code(), StatusCode::kCorrupt);
}

TEST(Calibration, WarnsOfAShortText) {
  const auto source = open_gutenlm();
  const TempDir dir;
  struct Messages {
    std::string warnings, infos;
  } messages;
  const Logger log{[](void* user, LogLevel level, const char* message) {
                     auto* m = static_cast<Messages*>(user);
                     (level == LogLevel::kWarning ? m->warnings : m->infos) += message + std::string("\n");
                   },
                   &messages};
  ASSERT_TRUE(calibrate(*source, sample_text(), 1024, dir.path(), 2, 1 << 30, {}, log).ok());
  EXPECT_EQ(messages.warnings.find("are few for layers"), std::string::npos) << messages.warnings;
  // As many tokens as are needed, but they do not weigh the same. Each matrix's are said, and the worst is named.
  EXPECT_NE(messages.infos.find("\"" + matrix_name(5, kDown) + "\" of "), std::string::npos) << messages.infos;
  EXPECT_NE(messages.warnings.find("of 43 matrices rest on fewer effective tokens"), std::string::npos)
      << messages.warnings;
  EXPECT_NE(messages.warnings.find("\"" + matrix_name(0, kV) + "\" on "), std::string::npos) << messages.warnings;
  ASSERT_TRUE(calibrate(*source, sample_text(), 1023, dir.path(), 2, 1 << 30, {}, log).ok());
  EXPECT_NE(messages.warnings.find("1023 tokens are few for layers of 512 inputs"), std::string::npos)
      << messages.warnings;
}

TEST(Calibration, HostileModelsAreNamed) {
  const TempDir dir;
  const auto status_of = [&](const EditedSource& source, const std::string& text = sample_text()) {
    return calibrate(source, text, 100, dir.path()).status();
  };
  {
    EditedSource source;
    source.drop(matrix_name(3, kUp));
    EXPECT_EQ(status_of(source).code(), StatusCode::kCorrupt);
    EXPECT_NE(status_of(source).message().find("layers.3.mlp.up_proj"), std::string::npos);
  }
  {
    EditedSource source;
    std::swap(source.tensor(matrix_name(1, kK)).shape[0], source.tensor(matrix_name(1, kK)).shape[1]);
    EXPECT_EQ(status_of(source).code(), StatusCode::kUnsupported);
    EXPECT_NE(status_of(source).message().find("layers.1.self_attn.k_proj"), std::string::npos);
  }
  {
    EditedSource source;
    source.poison(matrix_name(4, kO), 0x7fc0);  // NaN
    EXPECT_EQ(status_of(source).code(), StatusCode::kCorrupt);
    EXPECT_NE(status_of(source).message().find("layers.4.self_attn.o_proj"), std::string::npos);
  }
  {
    EditedSource source;
    source.poison(matrix_name(4, kDown), 0x7f7f);  // 3.4e38: finite, what follows is not
    EXPECT_EQ(status_of(source).code(), StatusCode::kCorrupt);
  }
  {
    EditedSource source;
    source.record().block().causal = false;
    EXPECT_EQ(status_of(source).code(), StatusCode::kUnsupported);
    EXPECT_NE(status_of(source).message().find("can be compressed without a text, but not calibrated: "),
              std::string::npos)
        << status_of(source).message();
  }
  EditedSource source;
  EXPECT_EQ(status_of(source, "").code(), StatusCode::kInvalidArgument);
  source.forget_tokenizer();
  EXPECT_EQ(status_of(source).code(), StatusCode::kUnsupported);
  EXPECT_EQ(Calibration::open(dir.path()).status().code(), StatusCode::kNotFound);
}

TEST(Calibration, HostileFilesAreNamed) {
  const auto source = open_gutenlm();
  const TempDir dir;
  ASSERT_TRUE(calibrate(*source, sample_text(), 100, dir.path()).ok());
  const std::string index = load_file(dir.file("calibration.json"));
  const auto open_with = [&](const std::string& from, const std::string& to) {
    std::string text = index;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    dir.write("calibration.json", text.replace(at, from.size(), to));
    return Calibration::open(dir.path());
  };
  EXPECT_EQ(open_with("\"version\": 1", "\"version\": 2").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(open_with("embedding.safetensors", "../embedding").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(open_with("\"m\": 1024", "\"m\": -1").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(open_with("\"n\": 192", "\"n\": 999999999999").status().code(), StatusCode::kLimit);
  EXPECT_EQ(open_with("{", "").status().code(), StatusCode::kCorrupt);
  const auto narrow = open_with("\"n\": 192", "\"n\": 191");
  ASSERT_TRUE(narrow.ok()) << narrow.status().message();
  EXPECT_EQ((*narrow)->load(kEmbeddingName, HessianKind::kFisher).status().code(), StatusCode::kCorrupt);
  const auto good = open_with("{", "{");
  ASSERT_TRUE(good.ok());
  std::filesystem::resize_file(dir.file("layer-2.safetensors"), 1000);
  EXPECT_FALSE((*good)->load(matrix_name(2, kQ), HessianKind::kFisher).ok());
  std::filesystem::remove(dir.file("layer-3.safetensors"));
  EXPECT_EQ((*good)->load(matrix_name(3, kQ), HessianKind::kFisher).status().code(), StatusCode::kIo);
  EXPECT_TRUE((*good)->load(matrix_name(4, kQ), HessianKind::kFisher).ok());
}

}  // namespace
}  // namespace nwc::test
