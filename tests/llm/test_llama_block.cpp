// The block's gradients against central differences in double; the whole forward pass against the engine's logits.
#include "tests/encode/test_source.h"
#include "tests/engine/model_fixture.h"
#include "tests/llm/llama_fixture.h"
#include "trainer/llm/feature_stream.h"
#include "trainer/llm/llama_block.h"
#include "trainer/nn/random.h"

namespace nwc::test {
namespace {

ModelRecord tiny_record(uint32_t heads, uint32_t kv_heads, RopeScaling scaling) {
  ModelRecord r = small_record();
  r.hidden_size = 12;
  r.block().intermediate_size = 10;
  r.block().num_heads = heads;
  r.block().num_kv_heads = kv_heads;
  r.block().head_dim = 6;
  r.block().rope.theta = 100;
  r.block().rope.scaling = scaling;
  r.block().rope.factor = scaling == RopeScaling::kNone ? 1.0f : 4.0f;
  r.block().rope.original_max_positions = 16;
  return r;
}

RowMatrix<double> random_matrix(Random* random, Eigen::Index rows, Eigen::Index cols, double deviation) {
  RowMatrix<double> m(rows, cols);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = deviation * random->normal();
  return m;
}

BlockWeights<double> random_weights(const LlamaShape& shape, Random* random) {
  BlockWeights<double> w;
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    w.matrix[i] =
        random_matrix(random, shape.rows(m), shape.cols(m), 1.2 / std::sqrt(static_cast<double>(shape.cols(m))));
  }
  w.attention_norm =
      RowVector<double>::Ones(shape.hidden) + RowVector<double>(random_matrix(random, 1, shape.hidden, 0.3));
  w.mlp_norm = RowVector<double>::Ones(shape.hidden) + RowVector<double>(random_matrix(random, 1, shape.hidden, 0.3));
  return w;
}

/// Central differences of `loss` in every value of [values, values + count) against grad.
template <typename Loss>
void expect_gradient(double* values, const double* grad, Eigen::Index count, const Loss& loss,
                     const std::string& what) {
  double largest = 0;
  for (Eigen::Index i = 0; i < count; ++i) largest = std::max(largest, std::abs(grad[i]));
  ASSERT_GT(largest, 0) << what << ": no gradient at all";
  for (Eigen::Index i = 0; i < count; ++i) {
    constexpr double kStep = 1e-6;
    const double at = values[i];
    values[i] = at + kStep;
    const double up = loss();
    values[i] = at - kStep;
    const double down = loss();
    values[i] = at;
    ASSERT_NEAR((up - down) / (2 * kStep), grad[i], 3e-7 * largest + 1e-6 * std::abs(grad[i]))
        << what << "[" << i << "]";
  }
}

struct Problem {
  LlamaShape shape;
  std::vector<uint32_t> lengths;
  BlockWeights<double> w;
  RowMatrix<double> x, direction;
  LlamaBlock<double> block;

  explicit Problem(const ModelRecord& record, std::vector<uint32_t> of = {5, 1, 7})
      : shape(record), lengths(std::move(of)), block(shape, *std::max_element(lengths.begin(), lengths.end())) {
    Random random({7, record.block().num_heads, record.block().num_kv_heads});
    Eigen::Index tokens = 0;
    for (const uint32_t n : lengths) tokens += n;
    w = random_weights(shape, &random);
    x = random_matrix(&random, tokens, shape.hidden, 1);
    direction = random_matrix(&random, tokens, shape.hidden, 1);
  }
  /// A linear function of the output, so that dL/dy = direction.
  double loss() { return block.forward(w, x, lengths).cwiseProduct(direction).sum(); }
  BlockWeights<double> zeros() const {
    BlockWeights<double> g = w;
    for (RowMatrix<double>& m : g.matrix) m.setZero();
    g.attention_norm.setZero();
    g.mlp_norm.setZero();
    return g;
  }
};

TEST(LlamaBlock, GradientsMatchDifferences) {
  const ModelRecord records[] = {tiny_record(4, 2, RopeScaling::kNone), tiny_record(3, 1, RopeScaling::kLlama3),
                                 tiny_record(2, 2, RopeScaling::kLinear)};
  for (const ModelRecord& record : records) {
    Problem p(record);
    const auto loss = [&p] { return p.loss(); };
    RowMatrix<double> dx;
    BlockWeights<double> grad = p.zeros();
    p.loss();
    p.block.backward(p.w, p.direction, &dx, &grad);
    expect_gradient(p.x.data(), dx.data(), dx.size(), loss, "x");
    for (uint32_t m = 0; m < kNumLayerMatrices; ++m) {
      expect_gradient(p.w.matrix[m].data(), grad.matrix[m].data(), grad.matrix[m].size(), loss,
                      linear_name(0, LayerMatrix(m)));
    }
    expect_gradient(p.w.attention_norm.data(), grad.attention_norm.data(), p.shape.hidden, loss, "attention norm");
    expect_gradient(p.w.mlp_norm.data(), grad.mlp_norm.data(), p.shape.hidden, loss, "MLP norm");
  }
}

TEST(LlamaBlock, LongSequencesCrossTheQueryPieces) {
  Problem p(tiny_record(4, 2, RopeScaling::kNone), {70, 131});
  RowMatrix<double> dx;
  p.loss();
  p.block.backward(p.w, p.direction, &dx, nullptr);
  Random random({8});
  // The directional derivative, as a difference along a random direction of the input.
  const RowMatrix<double> along = random_matrix(&random, p.x.rows(), p.x.cols(), 1);
  const RowMatrix<double> x = p.x;
  p.x = x + 1e-6 * along;
  const double up = p.loss();
  p.x = x - 1e-6 * along;
  const double down = p.loss();
  const double expected = dx.cwiseProduct(along).sum();
  EXPECT_NEAR((up - down) / 2e-6, expected, 1e-6 * std::abs(expected));
}

TEST(LlamaBlock, OutputGradientTimesInputIsTheWeightGradient) {
  Problem p(tiny_record(4, 2, RopeScaling::kLlama3));
  BlockWeights<double> grad = p.zeros();
  RowMatrix<double> dx;
  p.loss();
  p.block.backward(p.w, p.direction, &dx, &grad);
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    const RowMatrix<double> product = p.block.output_gradient(m).transpose() * p.block.input(m);
    EXPECT_LT((product - grad.matrix[i]).cwiseAbs().maxCoeff(), 1e-12) << linear_name(0, m);
  }
}

TEST(LlamaBlock, EmptyGradientsAreLeftOut) {
  Problem p(tiny_record(4, 2, RopeScaling::kNone));
  BlockWeights<double> all = p.zeros(), some;
  some.matrix[kV].setZero(all.matrix[kV].rows(), all.matrix[kV].cols());
  some.matrix[kDown].setZero(all.matrix[kDown].rows(), all.matrix[kDown].cols());
  RowMatrix<double> dx;
  p.loss();
  p.block.backward(p.w, p.direction, &dx, &all);
  p.loss();
  p.block.backward(p.w, p.direction, nullptr, &some);
  EXPECT_EQ(some.matrix[kV], all.matrix[kV]);
  EXPECT_EQ(some.matrix[kDown], all.matrix[kDown]);
  EXPECT_EQ(some.matrix[kQ].size(), 0);
}

TEST(LlamaBlock, SequencesDoNotSeeEachOther) {
  Problem p(tiny_record(4, 2, RopeScaling::kNone));
  p.loss();
  const RowMatrix<double> before = p.block.forward(p.w, p.x, p.lengths);
  p.x.topRows(5).setRandom();
  const RowMatrix<double> after = p.block.forward(p.w, p.x, p.lengths);
  EXPECT_EQ(before.bottomRows(8), after.bottomRows(8));
  EXPECT_NE(before.topRows(5), after.topRows(5));
}

/// Largest difference of logits between the engine and the trainer's forward pass.
float against_engine(const PlainModel& plain, const ModelSource& source, uint32_t count) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  Bench bench = make_bench(plain, params);
  if (!bench.session) return INFINITY;
  const std::vector<uint32_t> tokens = random_tokens(count, plain.record.vocab_size, 3);
  const std::vector<float> expected = all_logits(*bench.session, tokens);
  const LlamaModel model = load_llama(source);
  const RowMatrix<float> actual = logits(model, run_blocks(model, embed(model, tokens), 0, count));
  return largest_difference(expected, {actual.data(), static_cast<size_t>(actual.size())});
}

TEST(LlamaForward, MatchesTheEngine) {
  for (const char* path :
       {"/models/gutenlm-2.6m", "/tests/fixtures/logits/tiny-llama3", "/tests/fixtures/logits/tiny-linear"}) {
    const std::string folder = std::string(NWC_SOURCE_DIR) + path;
    const auto source = open_model_source(folder);
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_LT(against_engine(load_model(folder), **source, 100), 1e-4f) << path;
  }
}

TEST(FeatureStream, GoesThroughTheBlocks) {
  const auto source = open_model_source(std::string(NWC_SOURCE_DIR) + "/models/gutenlm-2.6m");
  ASSERT_TRUE(source.ok());
  const LlamaModel model = load_llama(**source);
  const std::vector<uint32_t> tokens = random_tokens(50, model.record.vocab_size, 5);
  const auto runner = make_thread_pool(2);
  auto stream = FeatureStream::open(**source, tokens, 20);
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  EXPECT_EQ(stream->lengths(), (std::vector<uint32_t>{20, 20, 10}));
  EXPECT_EQ(stream->outputs(), embed(model, tokens));
  for (uint32_t l = 0; l < model.record.num_layers; ++l) {
    const RowMatrix<float> before = stream->outputs();
    ASSERT_TRUE(stream->advance(*runner).ok());
    EXPECT_EQ(stream->taken(), l + 1);
    EXPECT_EQ(stream->inputs(), before);
    EXPECT_EQ(stream->weights().matrix[kDown], model.blocks[l].matrix[kDown]);
  }
  EXPECT_LT((stream->outputs() - run_blocks(model, embed(model, tokens), 0, 20)).cwiseAbs().maxCoeff(), 1e-3f);
  EXPECT_EQ(stream->advance(*runner).code(), StatusCode::kInvalidArgument);
  const uint32_t wrong[] = {model.record.vocab_size};
  EXPECT_EQ(FeatureStream::open(**source, wrong, 20).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(FeatureStream::open(**source, tokens, 257).status().code(), StatusCode::kInvalidArgument);
}

TEST(LlamaWeights, HostileSourcesAreNamed) {
  const LlamaShape shape(tiny_record(4, 2, RopeScaling::kNone));
  testing::MemorySource source;
  source.add_gaussian(linear_name(0, kQ), 24, 12, 1);
  source.add_gaussian(linear_name(0, kK), 12, 11, 1);
  const auto block = load_block(source, shape, 0);
  EXPECT_EQ(block.status().code(), StatusCode::kCorrupt);
  EXPECT_NE(block.status().message().find("k_proj"), std::string::npos) << block.status().message();
  EXPECT_NE(block.status().message().find("[12, 11]"), std::string::npos) << block.status().message();
  const auto missing = load_block(source, shape, 1);
  EXPECT_EQ(missing.status().code(), StatusCode::kCorrupt);
  EXPECT_NE(missing.status().message().find("model.layers.1.self_attn.q_proj"), std::string::npos);
  source.add("model.norm.weight", Dtype::kI8, {12}, std::vector<uint8_t>(12));
  EXPECT_EQ(load_vector(source, "model.norm.weight", 12).status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace nwc::test
