#include "trainer/recover/drift.h"

#include <algorithm>
#include <array>

#include "trainer/calib/second_moments.h"
#include "trainer/linalg/multiply.h"

namespace nwc {
namespace {

constexpr Eigen::Index kRoundTokens = 4096;  ///< whose activations are held at once, whole sequences
constexpr Eigen::Index kBand = 128;          ///< rows of a product that are one task

/// Calls body(first row, rows) for the bands of a matrix of so many rows, on all threads.
template <typename Body>
void for_each_band(Eigen::Index rows, Runner& runner, const Body& body) {
  const auto bands = static_cast<uint32_t>((rows + kBand - 1) / kBand);
  parallel_for(runner, bands, [&](uint32_t i, uint32_t) {
    const Eigen::Index begin = kBand * static_cast<Eigen::Index>(i);
    body(begin, std::min(kBand, rows - begin));
  });
}

}  // namespace

double DriftCorrection::passes(const LayerGraph& graph) {
  // One pass of each model to the next block; two up to each of the four products, which are about 2.3 together.
  constexpr double kPasses = 4.3;
  double products = 0, moments = 0;  // multiply-adds of a token
  for (size_t m = 0; m < graph.first_expert_matrix(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    const auto n = static_cast<double>(matrix.cols);
    products += n * static_cast<double>(matrix.rows);
    const bool first = m == 0 || graph.matrices()[m - 1].linear != matrix.linear;
    if (first) moments += 1.5 * n * n + (graph.has_base(m) ? n * static_cast<double>(graph.hidden()) : 0);
  }
  return products > 0 ? kPasses + moments / products : kPasses;
}

uint64_t DriftCorrection::memory_bytes(const LayerGraph& graph, uint64_t tokens, uint32_t workers) {
  uint64_t matrices = 0, widest = 0, values = 0;
  for (const LayerMatrix& m : graph.matrices()) matrices += static_cast<uint64_t>(m.rows * m.cols);
  for (size_t m = 0; m < graph.first_expert_matrix(); ++m)
    widest = std::max(widest, static_cast<uint64_t>(graph.matrices()[m].cols));
  for (const Eigen::Index width : graph.widths()) values += static_cast<uint64_t>(width);
  const auto hidden = static_cast<uint64_t>(graph.hidden());
  const uint64_t states = 3 * tokens * hidden;
  const uint64_t round = uint64_t{kRoundTokens} * (2 * widest + hidden);
  const uint64_t moments = 4 * widest * widest + 2 * hidden * widest;  // U and C; H and C of what judges
  return sizeof(float) *
         (states + round + moments + 3 * matrices + values * static_cast<uint64_t>(graph.context()) * workers);
}

DriftCorrection::DriftCorrection(const LayerGraph& graph, std::span<const uint32_t> lengths,
                                 const DriftOptions& options, Runner& runner)
    : graph_(graph),
      options_(options),
      sequences_(split_sequences(lengths, options.validation)),
      runner_(runner),
      passes_(runner.num_workers()),
      in_(runner.num_workers()) {}

/// *sum += A^T B over the first tokens.
void DriftCorrection::add_product(const RowMatrix<float>& a, const RowMatrix<float>& b, Eigen::Index tokens,
                                  RowMatrix<float>* sum) {
  for_each_band(sum->rows(), runner_, [&](Eigen::Index begin, Eigen::Index count) {
    multiply<float>(Form::kAtB, a.block(0, begin, tokens, count), b.topRows(tokens), true,
                    sum->middleRows(begin, count));
  });
}

DriftCorrection::Moments DriftCorrection::measure(size_t matrix, std::span<const Sequence> sequences,
                                                  const Blocks& blocks) {
  const Eigen::Index n = graph_.matrices()[matrix].cols;
  const bool added = graph_.has_base(matrix);
  SecondMoment second;
  second.reset(n);
  Moments out;
  out.inputs.setZero(n, n);
  if (added) out.residual.setZero(graph_.hidden(), n);
  RowMatrix<float> x, missing_x, missing_base;  // x^, x - x^, b - b^
  std::vector<Eigen::Index> begins;             // of a round's sequences
  for (size_t first = 0, end = 0; first < sequences.size(); first = end) {
    Eigen::Index tokens = 0;
    begins.clear();
    for (; end < sequences.size() && (end == first || tokens + sequences[end].length <= kRoundTokens); ++end) {
      begins.push_back(tokens);
      tokens += sequences[end].length;
    }
    if (x.rows() < tokens) {
      x.resize(tokens, n);
      missing_x.resize(tokens, n);
      if (added) missing_base.resize(tokens, graph_.hidden());
    }
    parallel_for(runner_, static_cast<uint32_t>(end - first), [&](uint32_t i, uint32_t worker) {
      const Sequence& sequence = sequences[first + i];
      const Eigen::Index count = sequence.length, at = begins[i];
      LayerPass<float>& pass = passes_[worker];
      const auto run = [&](const LayerWeights<float>& w, const RowMatrix<float>& from) {
        in_[worker] = from.middleRows(sequence.begin, count);
        pass.forward_to(graph_, w, in_[worker], std::span(&sequence.length, 1), matrix);
      };
      run(blocks.original, blocks.inputs);
      missing_x.middleRows(at, count) = pass.input(graph_, matrix);
      if (added) missing_base.middleRows(at, count) = pass.base(graph_, matrix);
      run(blocks.weights, blocks.drifted);
      x.middleRows(at, count) = pass.input(graph_, matrix);
      missing_x.middleRows(at, count) -= pass.input(graph_, matrix);
      if (added) missing_base.middleRows(at, count) -= pass.base(graph_, matrix);
    });
    second.parts = {{&x, 0, tokens, nullptr}};
    const Status alone = add_moments(std::vector<SecondMoment*>{&second}, one_rank(), runner_);
    assert(alone.ok());
    (void)alone;
    add_product(missing_x, x, tokens, &out.inputs);
    if (added) add_product(missing_base, x, tokens, &out.residual);
  }
  second.finish(1);
  out.second = std::move(second.sum);
  return out;
}

namespace {

/// What moves a matrix, as far as it goes, by its inputs and by what it is added to; the second may be empty.
using Moves = std::array<RowMatrix<float>, 2>;

/// The s in [0, 1]^2 for which s' Q s - 2 b' s is least.
struct Quadratic {
  double q[2][2] = {}, b[2] = {};

  void add(const Quadratic& other) {
    for (size_t i = 0; i < 2; ++i) {
      b[i] += other.b[i];
      for (size_t j = 0; j < 2; ++j) q[i][j] += other.q[i][j];
    }
  }
  std::array<double, 2> least() const {
    std::array<double, 2> s = {};
    for (int round = 0; round < 64; ++round) {
      for (size_t i = 0; i < 2; ++i)
        s[i] = q[i][i] > 0 ? std::clamp((b[i] - q[i][1 - i] * s[1 - i]) / q[i][i], 0.0, 1.0) : 0.0;
    }
    return s;
  }
};

double dot(const RowMatrix<float>& a, const RowMatrix<float>& b) {
  return a.cwiseProduct(b).template cast<double>().sum();
}

}  // namespace

void DriftCorrection::move(const Moments& fitted, const FeedbackFactors& factors, const Moments& judging,
                           RowMatrix<float>* weights) {
  RowMatrix<float>& w = *weights;
  const Eigen::Index n = w.cols();
  const ConstMatrixMap<float> upper(factors.upper.data(), n, n);
  RowVector<float> inverse(n);
  for (Eigen::Index k = 0; k < n; ++k) inverse[k] = static_cast<float>(1 / factors.diagonal[static_cast<size_t>(k)]);
  const size_t parts = fitted.residual.size() != 0 ? 2 : 1;
  Moves moves;
  for (size_t i = 0; i < parts; ++i) moves[i].resize(w.rows(), n);
  std::vector<Quadratic> of_band(static_cast<size_t>((w.rows() + kBand - 1) / kBand));
  for_each_band(w.rows(), runner_, [&](Eigen::Index begin, Eigen::Index count) {
    Moves band;
    for (size_t i = 0; i < parts; ++i) {
      RowMatrix<float>& b = band[i];
      b.resize(count, n);
      if (i == 0) {
        multiply<float>(Form::kAB, w.middleRows(begin, count), fitted.inputs, false, b);
      } else {
        b = fitted.residual.middleRows(begin, count);
      }
      // B H^-1 = B U^-T D^-1 U^-1
      upper.transpose().triangularView<Eigen::UnitLower>().solveInPlace<Eigen::OnTheRight>(b);
      b.array().rowwise() *= inverse.array();
      upper.triangularView<Eigen::UnitUpper>().solveInPlace<Eigen::OnTheRight>(b);
    }
    // On what judges, the moves m leave |missing|^2 - 2 <m, W C + R> + <m H, m>.
    Quadratic& quadratic = of_band[static_cast<size_t>(begin / kBand)];
    RowMatrix<float> wanted(count, n), product(count, n);
    multiply<float>(Form::kAB, w.middleRows(begin, count), judging.inputs, false, wanted);
    if (parts == 2) wanted += judging.residual.middleRows(begin, count);
    for (size_t i = 0; i < parts; ++i) {
      quadratic.b[i] = dot(band[i], wanted);
      multiply<float>(Form::kAB, band[i], judging.second, false, product);
      for (size_t j = 0; j < parts; ++j) quadratic.q[i][j] = dot(product, band[j]);
    }
    for (size_t i = 0; i < parts; ++i) moves[i].middleRows(begin, count) = band[i];
  });
  Quadratic all;
  for (const Quadratic& quadratic : of_band) all.add(quadratic);
  const std::array<double, 2> s = all.least();
  for (size_t i = 0; i < parts; ++i) {
    strengths_.push_back(options_.share * s[i]);
    w += static_cast<float>(strengths_.back()) * moves[i];
  }
}

Status DriftCorrection::correct(Linear linear, const LayerWeights<float>& original, const RowMatrix<float>& inputs,
                                const RowMatrix<float>& drifted, LayerWeights<float>* weights) {
  std::vector<size_t> matrices;  // of the product: they have one input
  for (size_t m = 0; m < graph_.first_expert_matrix(); ++m) {
    if (graph_.matrices()[m].linear == linear) matrices.push_back(m);
  }
  if (matrices.empty()) return {};
  const Blocks blocks{original, *weights, inputs, drifted};
  Moments fitted = measure(matrices[0], sequences_.training, blocks);
  const auto n = static_cast<size_t>(fitted.second.rows());
  NWC_ASSIGN_OR_RETURN(const FeedbackFactors factors,
                       factor_hessian({fitted.second.data(), n * n}, n, options_.damping, runner_));
  fitted.second.resize(0, 0);
  const Moments judging = measure(matrices[0], sequences_.judging, blocks);
  for (const size_t m : matrices) move(fitted, factors, judging, &weights->matrices[m]);
  return {};
}

}  // namespace nwc
