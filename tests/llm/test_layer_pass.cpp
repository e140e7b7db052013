// The layers of every family: gradients against central differences in double, the whole forward pass against the
// engine's logits.
#include "tests/encode/test_source.h"
#include "tests/engine/encoder_fixture.h"
#include "tests/llm/trained_model.h"
#include "trainer/llm/feature_stream.h"
#include "trainer/nn/random.h"

namespace nwc::test {
namespace {

RowMatrix<double> random_matrix(Random* random, Eigen::Index rows, Eigen::Index cols, double deviation) {
  RowMatrix<double> m(rows, cols);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = deviation * random->normal();
  return m;
}

std::unique_ptr<ModelSource> open_source(const std::string& path) {
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  return std::move(source).value();
}

/// One layer in double, and a linear function of its output.
struct Problem {
  const LayerGraph* graph = nullptr;
  std::vector<uint32_t> lengths;
  LayerWeights<double> w;
  RowMatrix<double> x, direction;
  LayerPass<double> pass;

  Problem(const ModelGraph& model, uint32_t layer, std::vector<uint32_t> of) : lengths(std::move(of)) {
    graph = &model.layer(layer);
    w = model.load_layer(layer).value().cast<double>();
    Random random({7, layer});
    Eigen::Index tokens = 0;
    for (const uint32_t n : lengths) tokens += n;
    // Biases and gains of the fixtures would do, but for biases that are zero.
    for (Eigen::Index i = 0; i < w.vectors.size(); ++i) w.vectors[i] += 0.1 * random.normal();
    x = random_matrix(&random, tokens, graph->hidden(), 1);
    direction = random_matrix(&random, tokens, graph->hidden(), 1);
  }
  double loss() { return pass.forward(*graph, w, x, lengths).cwiseProduct(direction).sum(); }
  LayerWeights<double> zeros() const {
    LayerWeights<double> g = w;
    for (RowMatrix<double>& m : g.matrices) m.setZero();
    g.vectors.setZero();
    return g;
  }
};

/// Four-point central differences of `loss` in values[i] of `count`, of all or of about 200 of them, and along a random
/// direction of all together, against grad.
template <typename Loss>
void expect_gradient(double* values, const double* grad, Eigen::Index count, const Loss& loss,
                     const std::string& what) {
  constexpr double kStep = 3e-5;
  double largest = 0;
  for (Eigen::Index i = 0; i < count; ++i) largest = std::max(largest, std::abs(grad[i]));
  ASSERT_GT(largest, 0) << what << ": no gradient at all";
  RowMap<double> all(values, count);
  const RowVector<double> original = all;
  const auto difference = [&](const auto& move) {
    const auto at = [&](double step) {
      move(step);
      const double y = loss();
      all = original;
      return y;
    };
    return (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
  };
  const Eigen::Index stride = std::max<Eigen::Index>(1, count / 200) | 1;
  for (Eigen::Index i = 0; i < count; i += stride) {
    ASSERT_NEAR(difference([&](double step) { values[i] = original[i] + step; }), grad[i], 1e-6 * largest)
        << what << "[" << i << "]";
  }
  Random random({11, static_cast<uint64_t>(count)});
  // Of length 1, so that few bounds of activations and ranks of experts lie within a step.
  const RowVector<double> along = random_matrix(&random, 1, count, 1).normalized();
  const double expected = along.dot(RowVector<double>(ConstRowMap<double>(grad, count)));
  EXPECT_NEAR(difference([&](double step) { all = original + step * along; }), expected,
              1e-6 * (std::abs(expected) + largest))
      << what << " along a random direction";
}

void expect_gradients(Problem& p) {
  const auto loss = [&p] { return p.loss(); };
  RowMatrix<double> dx;
  LayerWeights<double> grad = p.zeros();
  p.loss();
  p.pass.backward(*p.graph, p.w, p.direction, &dx, &grad);
  expect_gradient(p.x.data(), dx.data(), dx.size(), loss, "input");
  for (size_t m = 0; m < p.w.matrices.size(); ++m) {
    const LayerMatrix& matrix = p.graph->matrices()[m];
    if (matrix.expert != LayerMatrix::kNoExpert && p.pass.expert_tokens(matrix.expert).empty()) continue;
    expect_gradient(p.w.matrices[m].data(), grad.matrices[m].data(), grad.matrices[m].size(), loss,
                    role_name(matrix.role));
  }
  for (const LayerVector& v : p.graph->vectors()) {
    // Softmax does not see what is added to all keys, unless they are rotated or normed behind it.
    const double* g = grad.vectors.data() + v.at;
    if (v.role == Role::kKBias && ConstRowMap<double>(g, v.size).cwiseAbs().maxCoeff() < 1e-12) continue;
    expect_gradient(p.w.vectors.data() + v.at, g, v.size, loss, role_name(v.role));
  }
}

class Families : public ::testing::TestWithParam<std::string> {};

TEST_P(Families, GradientsMatchDifferences) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const auto source = open_source(f.folder);
  const auto model = ModelGraph::open(*source, 14);
  ASSERT_TRUE(model.ok()) << model.status().message();
  std::vector<bool> seen(model->model().blocks.size());
  for (uint32_t l = 0; l < model->num_layers(); ++l) {
    const uint8_t kind = model->layout().layers[l].kind;
    if (seen[kind]) continue;
    seen[kind] = true;
    SCOPED_TRACE("layer " + std::to_string(l));
    Problem p(*model, l, {5, 1, 14});  // windows are of 8 and 12
    expect_gradients(p);
  }
}

TEST_P(Families, GradientOfTheHeadMatchesDifferences) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const auto source = open_source(f.folder);
  const auto model = ModelGraph::open(*source, 8);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HeadWeights<float> single = model->load_head().value();
  const HeadWeights<double> head{single.norm,
                                 double{single.epsilon},
                                 single.gain.cast<double>(),
                                 single.norm_bias.cast<double>(),
                                 single.matrix.cast<double>(),
                                 single.bias.cast<double>(),
                                 double{single.logit_scale},
                                 double{single.logit_softcap}};
  Random random({3});
  RowMatrix<double> hidden = random_matrix(&random, 3, head.gain.size(), 1), normed, out;
  const RowMatrix<double> direction = random_matrix(&random, 3, head.matrix.rows(), 1);
  const auto loss = [&] {
    head_norm(head, hidden, &normed);
    head_logits(head, normed, &out);
    return out.cwiseProduct(direction).sum();
  };
  loss();
  const RowMatrix<double> slopes = out.unaryExpr([&](double v) { return logit_slope(head, v); });
  const RowMatrix<double> d_normed = direction.cwiseProduct(slopes) * head.matrix;
  RowMatrix<double> d_hidden;
  head_norm_backward(head, hidden, d_normed, &d_hidden);
  expect_gradient(hidden.data(), d_hidden.data(), hidden.size(), loss, "hidden states");
}

/// Largest difference of logits between the engine and the trainer's forward pass, relative to the largest logit.
float against_engine(const PlainModel& plain, const ModelSource& source, const std::vector<uint32_t>& tokens) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(tokens.size());
  Bench bench = make_bench(plain, params);
  if (!bench.session) return INFINITY;
  const std::vector<float> expected = all_logits(*bench.session, tokens);
  const TrainedModel model = load_trained(source, params.context);
  const RowMatrix<float> actual = logits(model, run_layers(model, embed(model, tokens)));
  float largest = 0;
  for (const float v : expected) largest = std::max(largest, std::abs(v));
  return largest_difference(expected, {actual.data(), static_cast<size_t>(actual.size())}) / largest;
}

TEST_P(Families, LogitsAreTheEngines) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const auto source = open_source(f.folder);
  const uint32_t most = source->model()->max_positions;
  const std::vector<uint32_t> tokens(f.tokens.begin(), f.tokens.begin() + std::min<ptrdiff_t>(most, 40));
  // Granite's tiny mixture does not scale scores of attention: they, and their rounding, are about three times as
  // large.
  EXPECT_LT(against_engine(load_model(f.folder), *source, tokens), f.name == "granite_moe" ? 3e-5f : 1e-5f);
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(family_names()), [](const auto& i) { return i.param; });

class Encoders : public ::testing::TestWithParam<std::string> {};

PoolingWeights<double> in_double(const PoolingWeights<float>& w) {
  PoolingWeights<double> out;
  out.spec = w.spec;
  out.block = w.block;
  out.eos_ids = w.eos_ids;
  const auto vector = [](const RowVector<float>& v) { return RowVector<double>(v.cast<double>()); };
  const auto matrix = [](const RowMatrix<float>& m) { return RowMatrix<double>(m.cast<double>()); };
  out.norm_gain = vector(w.norm_gain), out.norm_bias = vector(w.norm_bias);
  out.pooler = matrix(w.pooler), out.projection = matrix(w.projection), out.pooler_bias = vector(w.pooler_bias);
  out.probe = vector(w.probe), out.qkv_bias = vector(w.qkv_bias), out.output_bias = vector(w.output_bias);
  out.pool_norm_gain = vector(w.pool_norm_gain), out.pool_norm_bias = vector(w.pool_norm_bias);
  out.up_bias = vector(w.up_bias), out.down_bias = vector(w.down_bias);
  out.qkv = matrix(w.qkv), out.output = matrix(w.output), out.up = matrix(w.up), out.down = matrix(w.down);
  return out;
}

TEST_P(Encoders, GradientsMatchDifferences) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const auto source = open_source(f.folder);
  const auto model = ModelGraph::open(*source, 14);
  ASSERT_TRUE(model.ok()) << model.status().message();
  Problem p(*model, 0, {5, 1, 14});
  expect_gradients(p);

  const PoolingWeights<double> pooling = in_double(model->load_pooling().value());
  Random random({5});
  RowMatrix<double> states = random_matrix(&random, 6, model->model().hidden_size, 1), d_states;
  const RowVector<double> direction = random_matrix(&random, 1, model->model().embedding_size(), 1);
  const std::vector<uint32_t> ids = {3, 4, 5, 95, 7, 95};
  const auto loss = [&] {
    RowVector<double> embedding;
    pool_forward(pooling, states, ids, &embedding);
    return embedding.dot(direction);
  };
  pool_backward(pooling, states, ids, direction, &d_states);
  expect_gradient(states.data(), d_states.data(), states.size(), loss, "states");
}

/// Embedding, layers and pooling of texts as calibration has them; of images their pooling.
TEST_P(Encoders, EmbeddingsAreTransformers) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const auto source = open_source(f.folder);
  const uint32_t context = f.pixels.empty() ? static_cast<uint32_t>(f.tokens.size()) : source->model()->max_positions;
  const auto model = ModelGraph::open(*source, context);
  ASSERT_TRUE(model.ok()) << model.status().message();
  RowMatrix<float> states;
  if (f.pixels.empty()) {
    auto stream = FeatureStream::open(*model, f.tokens);
    ASSERT_TRUE(stream.ok()) << stream.status().message();
    const auto runner = make_thread_pool(2);
    for (uint32_t l = 0; l < model->num_layers(); ++l) ASSERT_TRUE(stream->advance(*runner).ok());
    head_norm(model->load_final_norm().value(), stream->outputs(), &states);
  } else {
    SessionParams params;
    params.weight_dtype = params.kv_dtype = Dtype::kF32;
    Bench bench = make_bench(load_model(f.folder), params);
    ASSERT_NE(bench.session, nullptr);
    const Encoded out = encode(*bench.session, f);
    states = ConstMatrixMap<float>(out.hidden.data(), context, model->model().hidden_size);
  }
  RowVector<float> embedding;
  pool_forward(model->load_pooling().value(), states, f.tokens, &embedding);
  float largest = 0;
  for (const float v : f.embedding) largest = std::max(largest, std::abs(v));
  EXPECT_LT(largest_difference(f.embedding, {embedding.data(), static_cast<size_t>(embedding.size())}),
            1e-4f * largest);
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, ::testing::ValuesIn(encoder_names()), [](const auto& i) { return i.param; });

TEST(LayerPass, LogitsAreTheEngines) {
  for (const char* path :
       {"/models/gutenlm-2.6m", "/tests/fixtures/logits/tiny-llama3", "/tests/fixtures/logits/tiny-linear"}) {
    const std::string folder = std::string(NWC_SOURCE_DIR) + path;
    const auto source = open_source(folder);
    EXPECT_LT(against_engine(load_model(folder), *source, random_tokens(100, source->model()->vocab_size, 3)), 1e-5f)
        << path;
  }
}

/// A model of random weights under Llama's names.
class RandomSource final : public testing::MemorySource {
 public:
  explicit RandomSource(const ModelRecord& record) : model_(record) {
    const PlainModel plain = random_model(record, 5);
    for (const auto& [name, tensor] : plain.tensors) add(name, tensor.dtype, tensor.shape, tensor.bytes);
  }
  const std::optional<ModelRecord>& model() const override { return model_; }

 private:
  std::optional<ModelRecord> model_;
};

ModelRecord tiny_record() {
  ModelRecord r = small_record();
  r.hidden_size = 12;
  r.num_layers = 1;
  r.block().num_heads = 4;
  r.block().num_kv_heads = 2;
  r.block().head_dim = 6;
  r.block().intermediate_size = 10;
  r.block().rope.theta = 100;
  return r;
}

/// What no family of the fixtures has.
TEST(LayerPass, GradientsOfUnusualBlocks) {
  std::vector<BlockSpec> specs;
  for (const MlpActivation activation : {MlpActivation::kSilu, MlpActivation::kGelu, MlpActivation::kGeluTanh,
                                         MlpActivation::kRelu, MlpActivation::kRelu2, MlpActivation::kQuickGelu}) {
    specs.push_back(tiny_record().block());
    specs.back().activation = activation;
    specs.push_back(specs.back());
    specs.back().gated = false;
  }
  BlockSpec spec = tiny_record().block();
  spec.num_kv_heads = 1;
  spec.window = 3;
  spec.attention_softcap = 2;
  spec.attention_scale = 0.9f;
  spec.temperature_beta = 0.3f;
  spec.temperature_positions = 4;
  specs.push_back(spec);
  spec.parallel = Parallel::kSharedNorm;
  spec.residual_scale = 0.4f;
  specs.push_back(spec);
  spec.norm = NormKind::kLayer;
  spec.norm_one_plus = true;
  spec.parallel = Parallel::kOwnNorm;
  spec.positions = Positions::kNone;
  specs.push_back(spec);
  spec = tiny_record().block();
  spec.window = 3;
  spec.clamp = 0.5f;
  specs.push_back(spec);
  for (size_t i = 0; i < specs.size(); ++i) {
    SCOPED_TRACE("block " + std::to_string(i));
    ModelRecord record = tiny_record();
    record.blocks = {specs[i]};
    const RandomSource source(record);
    const auto model = ModelGraph::open(source, 9);
    ASSERT_TRUE(model.ok()) << model.status().message();
    Problem p(*model, 0, {4, 9});
    expect_gradients(p);
  }
}

struct Tiny {
  RandomSource source;
  ModelGraph model;
  Problem p;

  explicit Tiny(std::vector<uint32_t> lengths = {5, 1, 7}, uint32_t window = 0)
      : source(with_window(window)),
        model(ModelGraph::open(source, *std::max_element(lengths.begin(), lengths.end())).value()),
        p(model, 0, std::move(lengths)) {}
  static ModelRecord with_window(uint32_t window) {
    ModelRecord r = tiny_record();
    r.block().window = window;
    return r;
  }
};

TEST(LayerPass, LongSequencesCrossTheQueryPieces) {
  for (const uint32_t window : {0u, 10u, 100u}) {
    Tiny tiny({70, 131}, window);
    Problem& p = tiny.p;
    RowMatrix<double> dx;
    p.loss();
    p.pass.backward(*p.graph, p.w, p.direction, &dx, nullptr);
    Random random({8});
    // The directional derivative, as a difference along a random direction of the input.
    const RowMatrix<double> along = random_matrix(&random, p.x.rows(), p.x.cols(), 1);
    const RowMatrix<double> x = p.x;
    p.x = x + 1e-6 * along;
    const double up = p.loss();
    p.x = x - 1e-6 * along;
    const double down = p.loss();
    const double expected = dx.cwiseProduct(along).sum();
    EXPECT_NEAR((up - down) / 2e-6, expected, 1e-6 * std::abs(expected)) << "window " << window;
  }
}

TEST(LayerPass, OutputGradientTimesInputIsTheWeightGradient) {
  Tiny tiny;
  Problem& p = tiny.p;
  LayerWeights<double> grad = p.zeros();
  RowMatrix<double> dx;
  p.loss();
  p.pass.backward(*p.graph, p.w, p.direction, &dx, &grad);
  for (size_t m = 0; m < p.w.matrices.size(); ++m) {
    const RowMatrix<double> product = p.pass.output_gradient(*p.graph, m).transpose() * p.pass.input(*p.graph, m);
    EXPECT_LT((product - grad.matrices[m]).cwiseAbs().maxCoeff(), 1e-12) << role_name(p.graph->matrices()[m].role);
  }
}

TEST(LayerPass, EmptyGradientsAreLeftOut) {
  Tiny tiny;
  Problem& p = tiny.p;
  const size_t q = matrix_of(*p.graph, Role::kQ), v = matrix_of(*p.graph, Role::kV);
  const size_t down = matrix_of(*p.graph, Role::kDown);
  LayerWeights<double> all = p.zeros(), some, vectors;
  some.matrices.resize(p.w.matrices.size());
  some.matrices[v] = all.matrices[v];
  some.matrices[down] = all.matrices[down];
  vectors.vectors = all.vectors;
  RowMatrix<double> dx;
  p.loss();
  p.pass.backward(*p.graph, p.w, p.direction, &dx, &all);
  p.loss();
  p.pass.backward(*p.graph, p.w, p.direction, nullptr, &some);
  EXPECT_EQ(some.matrices[v], all.matrices[v]);
  EXPECT_EQ(some.matrices[down], all.matrices[down]);
  EXPECT_EQ(some.matrices[q].size(), 0);
  EXPECT_EQ(some.vectors.size(), 0);
  p.loss();
  p.pass.backward(*p.graph, p.w, p.direction, nullptr, &vectors);
  EXPECT_EQ(vectors.vectors, all.vectors);
}

TEST(LayerPass, SequencesDoNotSeeEachOther) {
  Tiny tiny;
  Problem& p = tiny.p;
  p.loss();
  const RowMatrix<double> before = p.pass.forward(*p.graph, p.w, p.x, p.lengths);
  p.x.topRows(5).setRandom();
  const RowMatrix<double> after = p.pass.forward(*p.graph, p.w, p.x, p.lengths);
  EXPECT_EQ(before.bottomRows(8), after.bottomRows(8));
  EXPECT_NE(before.topRows(5), after.topRows(5));
}

TEST(FeatureStream, GoesThroughTheBlocks) {
  const auto source = open_source(std::string(NWC_SOURCE_DIR) + "/models/gutenlm-2.6m");
  const TrainedModel model = load_trained(*source, 20);
  const std::vector<uint32_t> tokens = random_tokens(50, model.vocab_size(), 5);
  const auto runner = make_thread_pool(2);
  auto stream = FeatureStream::open(model.graph, tokens);
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  EXPECT_EQ(stream->lengths(), (std::vector<uint32_t>{20, 20, 10}));
  EXPECT_EQ(stream->outputs(), embed(model, tokens));
  const size_t down = matrix_of(model.graph.layer(0), Role::kDown);
  for (uint32_t l = 0; l < model.graph.num_layers(); ++l) {
    const RowMatrix<float> before = stream->outputs();
    ASSERT_TRUE(stream->advance(*runner).ok());
    EXPECT_EQ(stream->taken(), l + 1);
    EXPECT_EQ(stream->inputs(), before);
    EXPECT_EQ(stream->weights().matrices[down], model.layers[l].matrices[down]);
  }
  EXPECT_LT((stream->outputs() - run_layers(model, embed(model, tokens))).cwiseAbs().maxCoeff(), 1e-3f);
  EXPECT_EQ(stream->advance(*runner).code(), StatusCode::kInvalidArgument);
  const uint32_t wrong[] = {model.vocab_size()};
  EXPECT_EQ(FeatureStream::open(model.graph, wrong).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ModelGraph::open(*source, 257).status().code(), StatusCode::kInvalidArgument);
}

TEST(ModelGraph, NamesWhatItCannotUse) {
  const auto message_of = [](const ModelSource& source, StatusCode code) {
    const auto graph = ModelGraph::open(source, 4);
    EXPECT_EQ(graph.status().code(), code);
    return graph.status().message();
  };
  testing::MemorySource nothing;
  EXPECT_NE(message_of(nothing, StatusCode::kUnsupported).find("description"), std::string::npos);
}

}  // namespace
}  // namespace nwc::test
