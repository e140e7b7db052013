// Recovery fine-tuning on blocks of gutenlm whose q, k and v were rounded coarsely.
#include <limits>

#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "tests/llm/trained_model.h"
#include "trainer/recover/recover_block.h"

namespace nwc::test {
namespace {

constexpr uint32_t kContext = 128;
constexpr size_t kTokens = 24 * kContext;
constexpr size_t kQ = 0, kK = 1, kV = 2, kO = 3, kGate = 4, kUp = 5, kDown = 6;
const FrozenMatrices kAttentionInputs = {true, true, true, false, false, false, false};

/// The block's features on the sample text, and its weights with q, k and v rounded.
struct Problem {
  std::unique_ptr<ModelSource> source;
  TrainedModel model;
  uint32_t layer;
  const LayerGraph& graph;
  LayerWeights<float> rounded;
  RowMatrix<float> inputs, targets;
  std::vector<uint32_t> lengths;
  RecoveryData data;

  explicit Problem(uint32_t of)
      : source(open()), model(load_trained(*source, kContext)), layer(of), graph(model.graph.layer(layer)) {
    const auto tokenizer = Tokenizer::create(*source->tokenizer());
    auto tokens = (*tokenizer)->encode(load_file(NWC_SOURCE_DIR "/models/sample.txt"), {.add_special = false});
    EXPECT_TRUE(tokens.ok());
    tokens->resize(kTokens);
    lengths.assign(kTokens / kContext, kContext);
    inputs = run_layers(model, embed(model, *tokens), 0, layer);
    targets = outputs(model.layers[layer]);
    rounded = model.layers[layer];
    for (const size_t m : {kQ, kK, kV}) round(&rounded.matrices[m]);
    data.inputs = &inputs;
    data.targets = &targets;
    data.lengths = lengths;
  }
  static std::unique_ptr<ModelSource> open() {
    auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
    EXPECT_TRUE(source.ok()) << source.status().message();
    return std::move(source).value();
  }
  RowMatrix<float> outputs(const LayerWeights<float>& w) const {
    LayerPass<float> pass;
    return pass.forward(graph, w, inputs, lengths);
  }
  /// To multiples of 0.8 standard deviations: between two and three bits.
  static void round(RowMatrix<float>* w) {
    const float step = 0.8f * std::sqrt(w->squaredNorm() / static_cast<float>(w->size()));
    *w = (w->array() / step).round() * step;
  }
  /// Squared error over all tokens, relative to what the block adds.
  double error(const LayerWeights<float>& w) const {
    return double{(outputs(w) - targets).squaredNorm()} / double{(inputs - targets).squaredNorm()};
  }
  Result<RecoveryResult> recover(LayerWeights<float>* w, const RecoveryOptions& options = {}, uint32_t threads = 2,
                                 const FrozenMatrices& frozen = kAttentionInputs, const Progress& progress = {}) const {
    const auto runner = make_thread_pool(threads);
    return recover_block(graph, w, frozen, data, options, *runner, progress);
  }
};

bool equal(const LayerWeights<float>& a, const LayerWeights<float>& b) {
  return a.matrices == b.matrices && a.vectors == b.vectors;
}

TEST(RecoverBlock, LowersTheErrorOfTheOutput) {
  for (const uint32_t layer : {1u, 4u}) {
    const Problem p(layer);
    LayerWeights<float> tuned = p.rounded;
    const auto result = p.recover(&tuned);
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_GT(result->best_epoch, 0u);
    // On the sequences that were not trained on, and over all.
    EXPECT_LT(result->after, 0.75 * result->before) << "block " << layer;
    EXPECT_LT(p.error(tuned), 0.75 * p.error(p.rounded)) << "block " << layer;
    for (const size_t m : {kQ, kK, kV}) EXPECT_EQ(tuned.matrices[m], p.rounded.matrices[m]);
    for (const size_t m : {kO, kGate, kUp, kDown}) EXPECT_NE(tuned.matrices[m], p.rounded.matrices[m]);
    EXPECT_NE(tuned.vectors, p.rounded.vectors);
  }
}

TEST(RecoverBlock, NormsAloneHelp) {
  const Problem p(4);
  const FrozenMatrices all(p.rounded.matrices.size(), true);
  LayerWeights<float> tuned = p.rounded;
  const auto result = p.recover(&tuned, {}, 2, all);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_LT(result->after, result->before);
  EXPECT_EQ(tuned.matrices, p.rounded.matrices);
  // Nothing to tune: nothing happens.
  RecoveryOptions options;
  options.tune_norms = false;
  tuned = p.rounded;
  const auto nothing = p.recover(&tuned, options, 2, all);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->after, nothing->before);
  EXPECT_TRUE(equal(tuned, p.rounded));
}

TEST(RecoverBlock, MetricAndWeightsDecideWhatCounts) {
  Problem p(3);
  RowMatrix<float> metric = RowMatrix<float>::Zero(p.graph.hidden(), p.graph.hidden());
  metric.diagonal().head(p.graph.hidden() / 2).setOnes();
  std::vector<float> weight(kTokens, 0.0f);
  std::fill_n(weight.begin(), kTokens / 2, 1.0f);
  p.data.metric = &metric;
  p.data.token_weight = weight;
  RecoveryOptions options;
  options.validation = 0;
  LayerWeights<float> tuned = p.rounded;
  const auto result = p.recover(&tuned, options);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_LT(result->after, 0.7 * result->before);
  // The figure is the one that the caller would compute.
  const RowMatrix<float> error = p.outputs(tuned) - p.targets, empty = p.inputs - p.targets;
  const auto corner = [&](const RowMatrix<float>& m) {
    return double{m.topLeftCorner(kTokens / 2, p.graph.hidden() / 2).squaredNorm()};
  };
  EXPECT_NEAR(result->after, corner(error) / corner(empty), 1e-3 * result->after);
}

TEST(RecoverBlock, SameResultAtAnyNumberOfThreads) {
  const Problem p(2);
  RecoveryOptions options;
  options.epochs = 2;
  LayerWeights<float> one = p.rounded, three = p.rounded, other = p.rounded;
  ASSERT_TRUE(p.recover(&one, options, 1).ok());
  ASSERT_TRUE(p.recover(&three, options, 3).ok());
  EXPECT_TRUE(equal(one, three));
  options.seed = 2;
  ASSERT_TRUE(p.recover(&other, options, 3).ok());
  EXPECT_FALSE(equal(one, other));
}

TEST(RecoverBlock, KeepsWhatIsBest) {
  const Problem p(2);
  RecoveryOptions options;
  options.learning_rate = 10;  // makes everything worse
  LayerWeights<float> tuned = p.rounded;
  const auto result = p.recover(&tuned, options);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->best_epoch, 0u);
  EXPECT_EQ(result->after, result->before);
  EXPECT_TRUE(equal(tuned, p.rounded));
}

TEST(RecoverBlock, CancelledItLeavesTheBestSoFar) {
  const Problem p(4);
  LayerWeights<float> tuned = p.rounded;
  const Progress one_epoch{[](void*, uint64_t done, uint64_t) { return done < 1; }, nullptr};
  EXPECT_EQ(p.recover(&tuned, {}, 2, kAttentionInputs, one_epoch).status().code(), StatusCode::kCancelled);
  EXPECT_LT(p.error(tuned), p.error(p.rounded));
}

TEST(RecoverBlock, WrongArgumentsAreRefused) {
  Problem p(0);
  const auto code = [&](const RecoveryOptions& options = {}) {
    LayerWeights<float> tuned = p.rounded;
    return p.recover(&tuned, options).status().code();
  };
  RecoveryOptions options;
  options.validation = 1;
  EXPECT_EQ(code(options), StatusCode::kInvalidArgument);
  options = {};
  options.learning_rate = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(code(options), StatusCode::kInvalidArgument);
  const std::vector<float> weight(3, 1.0f);
  p.data.token_weight = weight;
  EXPECT_EQ(code(), StatusCode::kInvalidArgument);
  p.data.token_weight = {};
  p.lengths.back() -= 1;
  EXPECT_EQ(code(), StatusCode::kInvalidArgument);
  p.lengths.back() += 1;
  p.inputs(5, 5) = std::numeric_limits<float>::infinity();
  EXPECT_EQ(code(), StatusCode::kCorrupt);
  p.inputs(5, 5) = 0;
  p.rounded.matrices[kUp].resize(3, 3);
  EXPECT_EQ(code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nwc::test
