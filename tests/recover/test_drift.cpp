// Drift correction on a block of gutenlm whose inputs were disturbed.
#include <limits>

#include "runtime/model/tokenizer.h"
#include "tests/data/temp_dir.h"
#include "tests/llm/trained_model.h"
#include "trainer/linalg/multiply.h"
#include "trainer/nn/random.h"
#include "trainer/recover/drift.h"

namespace nwc::test {
namespace {

constexpr uint32_t kContext = 128, kLayer = 3;
constexpr size_t kTokens = 33 * kContext + 50;  // more than are held at once, and a shorter sequence
constexpr size_t kQ = 0, kK = 1, kV = 2, kO = 3, kGate = 4, kUp = 5, kDown = 6;

struct Problem {
  std::unique_ptr<ModelSource> source = open();
  TrainedModel model = load_trained(*source, kContext);
  const LayerGraph& graph = model.graph.layer(kLayer);
  const LayerWeights<float>& original = model.layers[kLayer];
  RowMatrix<float> inputs, drifted;
  std::vector<uint32_t> lengths;

  Problem() {
    const auto tokenizer = Tokenizer::create(*source->tokenizer());
    auto tokens = (*tokenizer)->encode(load_file(NWC_SOURCE_DIR "/models/sample.txt"), {.add_special = false});
    EXPECT_TRUE(tokens.ok());
    tokens->resize(kTokens);
    lengths.assign(kTokens / kContext, kContext);
    lengths.push_back(kTokens % kContext);
    inputs = run_layers(model, embed(model, *tokens), 0, kLayer);
    // An error that a linear map of the inputs can take back, in part.
    drifted = inputs;
    drifted.leftCols(20) *= 1.2f;
    drifted += 0.1f * inputs.rowwise().reverse();
  }
  static std::unique_ptr<ModelSource> open() {
    auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
    EXPECT_TRUE(source.ok()) << source.status().message();
    return std::move(source).value();
  }
  LayerWeights<float> correct(Linear linear, const DriftOptions& options, uint32_t threads = 2) const {
    const auto runner = make_thread_pool(threads);
    DriftCorrection correction(graph, lengths, options, *runner);
    LayerWeights<float> out = original;
    EXPECT_TRUE(correction.correct(linear, original, inputs, drifted, &out).ok());
    return out;
  }
  /// What product m gets, and what its output is added to: of all sequences, one below the other.
  struct Values {
    RowMatrix<float> input, base;
  };
  Values values(const RowMatrix<float>& from, size_t m) const {
    LayerPass<float> pass;
    pass.forward(graph, original, from, lengths);
    return {pass.input(graph, m), graph.has_base(m) ? pass.base(graph, m) : RowMatrix<float>()};
  }
  /// What product m of the drifted block lacks, with w in place of its matrix.
  RowMatrix<float> missing(size_t m, const RowMatrix<float>& w, bool base) const {
    return missing(m, w, base, values(inputs, m), values(drifted, m));
  }
  RowMatrix<float> missing(size_t m, const RowMatrix<float>& w, bool base, const Values& wanted,
                           const Values& got) const {
    RowMatrix<float> out(wanted.input.rows(), w.rows());
    multiply<float>(Form::kABt, got.input, -w, false, out);
    multiply<float>(Form::kABt, wanted.input, original.matrices[m], true, out);
    if (base) out += wanted.base - got.base;
    return out;
  }
};

const DriftOptions kAll{
    .enabled = true, .damping = 1e-6, .share = 1, .validation = 0};  // all judge: least squares as it is

TEST(Drift, FindsTheLeastSquaresSolution) {
  const Problem p;
  for (const auto& [linear, matrices] : {std::pair{Linear::kQkv, std::vector<size_t>{kQ, kK, kV}},
                                         {Linear::kOutput, {kO}},
                                         {Linear::kGateUp, {kGate, kUp}},
                                         {Linear::kDown, {kDown}}}) {
    const LayerWeights<float> moved = p.correct(linear, kAll);
    for (size_t m = 0; m < moved.matrices.size(); ++m) {
      const RowMatrix<float>& w = moved.matrices[m];
      if (std::find(matrices.begin(), matrices.end(), m) == matrices.end()) {
        EXPECT_EQ(w, p.original.matrices[m]) << m;
        continue;
      }
      const bool base = linear == Linear::kOutput || linear == Linear::kDown;
      ASSERT_EQ(p.graph.has_base(m), base);
      const Problem::Values wanted = p.values(p.inputs, m), got = p.values(p.drifted, m);
      const RowMatrix<float> before = p.missing(m, p.original.matrices[m], base, wanted, got);
      const RowMatrix<float> after = p.missing(m, w, base, wanted, got);
      EXPECT_LT(after.squaredNorm(), 0.9f * before.squaredNorm()) << m;
      // What is left is orthogonal to the inputs: no linear map takes more of it away.
      const RowMatrix<float>& x = got.input;
      RowMatrix<float> left(w.rows(), w.cols()), all(w.rows(), w.cols());
      multiply<float>(Form::kAtB, after, x, false, left);
      multiply<float>(Form::kAtB, before, x, false, all);
      EXPECT_LT(left.norm(), 2e-3f * all.norm()) << m;
    }
    EXPECT_EQ(moved.vectors, p.original.vectors);
  }
}

/// From fewer tokens than inputs the least squares solution says nothing about other tokens.
TEST(Drift, FewTokensDoNoHarm) {
  constexpr uint32_t kLength = 32, kSequences = 10;
  Problem p;
  p.lengths.assign(kSequences, kLength);
  p.inputs.conservativeResize(kLength * kSequences, Eigen::NoChange);
  p.drifted.conservativeResize(kLength * kSequences, Eigen::NoChange);
  Random random({5});
  for (float& v : p.drifted.reshaped()) v += 0.3f * static_cast<float>(random.normal());
  DriftOptions options;
  const auto runner = make_thread_pool(2);
  const auto error = [&](const RowMatrix<float>& w) {
    double sum = 0;
    const RowMatrix<float> missing = p.missing(kDown, w, true);
    for (const Sequence& s : split_sequences(p.lengths, options.validation).judging)
      sum += double{missing.middleRows(s.begin, s.length).squaredNorm()};
    return sum;
  };
  DriftCorrection correction(p.graph, p.lengths, options, *runner);
  LayerWeights<float> moved = p.original;
  ASSERT_TRUE(correction.correct(Linear::kDown, p.original, p.inputs, p.drifted, &moved).ok());
  EXPECT_LE(error(moved.matrices[kDown]), error(p.original.matrices[kDown]));
  ASSERT_EQ(correction.strengths().size(), 2u);
  for (const double s : correction.strengths()) EXPECT_LT(s, 0.9);
}

TEST(Drift, WithoutDriftNothingMoves) {
  Problem p;
  p.drifted = p.inputs;
  for (const Linear linear : {Linear::kQkv, Linear::kOutput, Linear::kGateUp, Linear::kDown})
    EXPECT_EQ(p.correct(linear, kAll).matrices, p.original.matrices);
}

TEST(Drift, IsTheSameAtAnyNumberOfThreads) {
  const Problem p;
  EXPECT_EQ(p.correct(Linear::kDown, kAll, 1).matrices[kDown], p.correct(Linear::kDown, kAll, 3).matrices[kDown]);
}

TEST(Drift, WhatIsNotFiniteIsAnError) {
  Problem p;
  p.drifted(5, 5) = std::numeric_limits<float>::infinity();
  const auto runner = make_thread_pool(2);
  const DriftOptions options = kAll;
  DriftCorrection correction(p.graph, p.lengths, options, *runner);
  LayerWeights<float> w = p.original;
  EXPECT_EQ(correction.correct(Linear::kQkv, p.original, p.inputs, p.drifted, &w).code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace nwc::test
