#include "trainer/calib/block_statistics.h"

#include <algorithm>

#include "trainer/linalg/multiply.h"
#include "trainer/parallel/relay.h"

namespace nwc {

namespace {

/// |G^T X|^2 of a sequence's gradients G [tokens][m] and inputs X [tokens][n], of which the squares are one entry each.
/// The sum over pairs of tokens of (g_s . g_t) (x_s . x_t) is the same, and less work for matrices that are large
/// beside the sequence.
template <typename Gradients, typename Inputs>
double squared_product(const Gradients& g, const Inputs& x, RowMatrix<float>* product, RowMatrix<float>* other) {
  if (g.rows() * (g.cols() + x.cols()) >= g.cols() * x.cols()) {
    product->resize(g.cols(), x.cols());
    multiply<float>(Form::kAtB, g, x, false, *product);
    return double{product->squaredNorm()};
  }
  product->resize(g.rows(), g.rows());
  multiply<float>(Form::kABt, g, g, false, *product);
  other->resize(g.rows(), g.rows());
  multiply<float>(Form::kABt, x, x, false, *other);
  return product->cwiseProduct(*other).template cast<double>().sum();
}

}  // namespace

BlockStatistics::BlockStatistics(const LayerGraph& graph, bool activations)
    : graph_(graph), activations_(activations), matrices_(graph.matrices().size()) {
  for (size_t m = 0; m < matrices_.size(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    if (owns_input(m) && activations_) matrices_[m].activation.reset(matrix.cols);
    matrices_[m].fisher.reset(matrix.cols);
    matrices_[m].rows.assign(static_cast<size_t>(matrix.rows), 0.0);
  }
}

uint64_t BlockStatistics::token_bytes(const LayerGraph& graph) {
  uint64_t floats = 0, of_experts = 0;
  for (size_t m = 0; m < graph.matrices().size(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    const bool first_expert = matrix.expert == 0;
    if (matrix.input_owner != m || (matrix.expert != LayerMatrix::kNoExpert && !first_expert)) continue;
    (first_expert ? of_experts : floats) += static_cast<uint64_t>(matrix.cols);
  }
  floats += uint64_t{graph.spec().experts.per_token} * of_experts;
  return floats * sizeof(float);
}

void BlockStatistics::begin_round(Eigen::Index tokens, size_t pieces) {
  pieces_.resize(pieces);
  for (PieceSums& piece : pieces_) {
    piece.rows.resize(matrices_.size());
    piece.energy.resize(matrices_.size());
    piece.input.resize(matrices_.size());
    piece.omega.resize(matrices_.size());
  }
  for (size_t m = 0; m < matrices_.size() && !of_expert(m); ++m) {
    Matrix& matrix = matrices_[m];
    if (owns_input(m) && matrix.input.rows() < tokens) matrix.input.resize(tokens, graph_.matrices()[m].cols);
    matrix.omega.resize(static_cast<size_t>(tokens));
  }
}

void BlockStatistics::take(size_t piece, Eigen::Index at, std::span<const uint32_t> lengths,
                           const LayerPass<float>& pass) {
  RowMatrix<float> product, other;
  pieces_[piece].at = at;
  pieces_[piece].tokens = 0;
  for (const uint32_t length : lengths) pieces_[piece].tokens += length;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    const RowMatrix<float>& x = pass.input(graph_, m);
    const auto g = pass.output_gradient(graph_, m);
    const bool expert = of_expert(m);
    PieceSums& sums = pieces_[piece];
    if (expert) sums.omega[m].resize(static_cast<size_t>(g.rows()));
    float* const omega = expert ? sums.omega[m].data() : matrices_[m].omega.data() + at;
    if (owns_input(m) && expert) sums.input[m] = x;
    if (owns_input(m) && !expert) matrices_[m].input.middleRows(at, x.rows()) = x;
    RowVector<float>& rows = sums.rows[m];
    rows.setZero(g.cols());
    for (Eigen::Index t = 0; t < g.rows(); ++t) {
      rows += g.row(t).cwiseAbs2();
      omega[t] = g.row(t).squaredNorm() / static_cast<float>(g.cols());
    }
    double& energy = sums.energy[m];
    energy = 0;
    const std::span<const uint32_t> tokens =
        expert ? pass.expert_tokens(graph_.matrices()[m].expert) : std::span<const uint32_t>();
    Eigen::Index begin = 0, end_of_sequence = 0;
    for (const uint32_t length : lengths) {
      end_of_sequence += length;
      Eigen::Index count = length;
      if (expert) {  // the sequence's tokens among those that take it
        const auto last = std::lower_bound(tokens.begin() + begin, tokens.end(), end_of_sequence);
        count = last - tokens.begin() - begin;
      }
      if (count == 0) continue;
      energy += squared_product(g.middleRows(begin, count), x.middleRows(begin, count), &product, &other);
      begin += count;
    }
  }
}

/// The piece's tokens, or those of them that take an expert.
MomentPart BlockStatistics::part_of(size_t piece, size_t m) const {
  const PieceSums& sums = pieces_[piece];
  const size_t owner = graph_.matrices()[m].input_owner;
  if (of_expert(m)) return {&sums.input[owner], 0, eigen_index(sums.omega[m].size()), sums.omega[m].data()};
  return {&matrices_[owner].input, sums.at, sums.tokens, matrices_[m].omega.data() + sums.at};
}

void BlockStatistics::add_pieces() {
  for (size_t m = 0; m < matrices_.size(); ++m) {
    Matrix& matrix = matrices_[m];
    for (const PieceSums& piece : pieces_) {
      for (size_t r = 0; r < matrix.rows.size(); ++r) matrix.rows[r] += double{piece.rows[m][eigen_index(r)]};
      matrix.energy += piece.energy[m];
      if (of_expert(m)) matrix.taken += static_cast<double>(piece.omega[m].size());
    }
  }
}

Status BlockStatistics::end_round(Ranks& ranks, Runner& runner) {
  std::vector<SecondMoment*> moments;
  std::vector<double*> numbers;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    Matrix& matrix = matrices_[m];
    for (double& row : matrix.rows) numbers.push_back(&row);
    numbers.push_back(&matrix.energy);
    numbers.push_back(&matrix.taken);
    matrix.fisher.parts.clear();
    for (size_t i = 0; i < pieces_.size(); ++i) matrix.fisher.parts.push_back(part_of(i, m));
    moments.push_back(&matrix.fisher);
    if (!owns_input(m) || !activations_) continue;
    matrix.activation.parts = matrix.fisher.parts;
    for (MomentPart& part : matrix.activation.parts) part.weight = nullptr;
    moments.push_back(&matrix.activation);
  }
  NWC_TRY(relay(ranks, numbers, [this] { add_pieces(); }));
  return add_moments(moments, ranks, runner);
}

/// An expert sees a share of the text only. Per token that takes it, its sums S_e over N_e tokens become
///   (S_e + k S / N) / (N_e + k),
/// S and N being those of all experts of the layer. k is the number of inputs: from fewer tokens than that a moment has
/// no full rank. From less than kFewTokens not even its size is known, and the layer's stands for it. What an expert
/// costs follows from how often it is taken: (N_e + 1/2) of the text's tokens, half of one more, as unseen is not
/// never.
void BlockStatistics::shrink_experts(Eigen::Index tokens) {
  constexpr double kFewTokens = 16;
  const size_t step = graph_.per_expert(), first = graph_.first_expert_matrix();
  for (size_t j = 0; j < step; ++j) {
    Matrix all = matrices_[first + j];
    for (size_t m = first + j + step; m < matrices_.size(); m += step) {
      const Matrix& matrix = matrices_[m];
      all.fisher.sum += matrix.fisher.sum;
      all.fisher.effective.add(matrix.fisher.effective);
      if (activations_) all.activation.sum += matrix.activation.sum;
      for (size_t r = 0; r < all.rows.size(); ++r) all.rows[r] += matrix.rows[r];
      all.energy += matrix.energy;
      all.taken += matrix.taken;
    }
    for (size_t m = first + j; m < matrices_.size(); m += step) {
      Matrix& matrix = matrices_[m];
      const double taken = matrix.taken, k = static_cast<double>(all.fisher.sum.cols());
      const bool few = matrix.taken < kFewTokens;
      const double as_often = (taken + 0.5) / static_cast<double>(tokens);
      const double own = few ? 0 : as_often / (taken + k);
      const double others = as_often * (few ? 1 : k / (taken + k)) / all.taken;
      const auto mix = [&](RowMatrix<float>& of, const RowMatrix<float>& layer) {
        of = static_cast<float>(own) * of + static_cast<float>(others) * layer;
      };
      mix(matrix.fisher.sum, all.fisher.sum);
      EffectiveTokens both;
      both.add(matrix.fisher.effective, own);
      both.add(all.fisher.effective, others);
      matrix.fisher.effective = both;
      if (activations_) mix(matrix.activation.sum, all.activation.sum);
      for (size_t r = 0; r < all.rows.size(); ++r) matrix.rows[r] = own * matrix.rows[r] + others * all.rows[r];
      matrix.energy = own * matrix.energy + others * all.energy;
    }
  }
}

/// An error of W acts at every token of a sequence, and what it does at one token may add to what it does at another:
/// v_proj's outputs are averaged by the attention, so that there the sum of the tokens' own effects falls short by a
/// factor of two. The whole effect of an error without direction is known, as the squared norm of the gradient of the
/// sequence; the second moment is scaled to it. (On gutenlm that is all there is to gain: moments of the sequences'
/// gradients, or of v_proj's inputs as the attention averages them, served error feedback no better.)
std::vector<TensorMoments> BlockStatistics::finish(const std::vector<std::string>& names, Eigen::Index tokens) {
  std::vector<TensorMoments> out;
  shrink_experts(tokens);
  for (size_t m = 0; m < matrices_.size(); ++m) {
    Matrix& matrix = matrices_[m];
    const double count = of_expert(m) ? 1 : static_cast<double>(tokens);  // experts' are means already
    matrix.fisher.finish(count);
    const double own = double{matrix.fisher.sum.trace()} * static_cast<double>(matrix.rows.size()) * count;
    if (own > 0 && matrix.energy > 0) matrix.fisher.sum *= static_cast<float>(matrix.energy / own);
    const bool activation = owns_input(m) && activations_;
    if (activation) matrix.activation.finish(count);
    out.push_back({names[m], activation ? &matrix.activation.sum : nullptr, &matrix.fisher.sum,
                   normalized_importance(matrix.rows), matrix.fisher.effective.count()});
  }
  return out;
}

}  // namespace nwc
