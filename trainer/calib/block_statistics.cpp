#include "trainer/calib/block_statistics.h"

namespace nwc {

BlockStatistics::BlockStatistics(const LayerGraph& graph) : graph_(graph), matrices_(graph.matrices().size()) {
  for (size_t m = 0; m < matrices_.size(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    if (owns_input(m)) matrices_[m].activation.reset(matrix.cols);
    matrices_[m].fisher.reset(matrix.cols);
    matrices_[m].rows.assign(static_cast<size_t>(matrix.rows), 0.0);
  }
}

uint64_t BlockStatistics::token_bytes(const LayerGraph& graph) {
  uint64_t floats = 0;
  for (size_t m = 0; m < graph.matrices().size(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    if (matrix.input_owner == m) floats += static_cast<uint64_t>(matrix.cols);
  }
  return floats * sizeof(float);
}

void BlockStatistics::begin_round(Eigen::Index tokens, size_t pieces) {
  round_tokens_ = tokens;
  pieces_.resize(pieces);
  for (PieceSums& piece : pieces_) {
    piece.rows.resize(matrices_.size());
    piece.energy.resize(matrices_.size());
  }
  for (Matrix& matrix : matrices_) {
    const Eigen::Index n = matrix.activation.sum.cols();
    if (n != 0 && matrix.input.rows() < tokens) matrix.input.resize(tokens, n);
    matrix.omega.resize(static_cast<size_t>(tokens));
  }
}

void BlockStatistics::take(size_t piece, Eigen::Index at, std::span<const uint32_t> lengths,
                           const LayerPass<float>& pass) {
  RowMatrix<float> gradient;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    const RowMatrix<float>& x = pass.input(graph_, m);
    const auto g = pass.output_gradient(graph_, m);
    if (owns_input(m)) matrices_[m].input.middleRows(at, x.rows()) = x;
    RowVector<float>& rows = pieces_[piece].rows[m];
    rows.setZero(g.cols());
    for (Eigen::Index t = 0; t < g.rows(); ++t) {
      rows += g.row(t).cwiseAbs2();
      matrices_[m].omega[static_cast<size_t>(at + t)] = g.row(t).squaredNorm() / static_cast<float>(g.cols());
    }
    double& energy = pieces_[piece].energy[m];
    energy = 0;
    Eigen::Index begin = 0;
    for (const uint32_t length : lengths) {
      gradient.noalias() = g.middleRows(begin, length).transpose() * x.middleRows(begin, length);
      energy += double{gradient.squaredNorm()};
      begin += length;
    }
  }
}

void BlockStatistics::end_round(Runner& runner) {
  std::vector<SecondMoment*> moments;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    Matrix& matrix = matrices_[m];
    matrix.fisher.x = &matrices_[graph_.matrices()[m].input_owner].input;
    matrix.fisher.weight = matrix.omega.data();
    moments.push_back(&matrix.fisher);
    if (owns_input(m)) {
      matrix.activation.x = &matrix.input;
      moments.push_back(&matrix.activation);
    }
    for (const PieceSums& piece : pieces_) {
      for (size_t r = 0; r < matrix.rows.size(); ++r) matrix.rows[r] += double{piece.rows[m][eigen_index(r)]};
      matrix.energy += piece.energy[m];
    }
  }
  add_moments(moments, round_tokens_, runner);
}

/// An error of W acts at every token of a sequence, and what it does at one token may add to what it does at another:
/// v_proj's outputs are averaged by the attention, so that there the sum of the tokens' own effects falls short by a
/// factor of two. The whole effect of an error without direction is known, as the squared norm of the gradient of the
/// sequence; the second moment is scaled to it. (On gutenlm that is all there is to gain: moments of the sequences'
/// gradients, or of v_proj's inputs as the attention averages them, served error feedback no better.)
std::vector<TensorMoments> BlockStatistics::finish(const std::vector<std::string>& names, Eigen::Index tokens) {
  std::vector<TensorMoments> out;
  for (size_t m = 0; m < matrices_.size(); ++m) {
    Matrix& matrix = matrices_[m];
    matrix.fisher.finish(static_cast<double>(tokens));
    const double own =
        double{matrix.fisher.sum.trace()} * static_cast<double>(matrix.rows.size()) * static_cast<double>(tokens);
    if (own > 0 && matrix.energy > 0) matrix.fisher.sum *= static_cast<float>(matrix.energy / own);
    if (owns_input(m)) matrix.activation.finish(static_cast<double>(tokens));
    out.push_back({names[m], owns_input(m) ? &matrix.activation.sum : nullptr, &matrix.fisher.sum,
                   normalized_importance(matrix.rows)});
  }
  return out;
}

}  // namespace nwc
