#include "trainer/calib/block_statistics.h"

#include "trainer/llm/llama_weights.h"

namespace nwc {

BlockStatistics::BlockStatistics(const LlamaShape& shape) {
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    if (input_owner(m) == m) layers_[i].activation.reset(shape.cols(m));
    layers_[i].fisher.reset(shape.cols(m));
    layers_[i].rows.assign(static_cast<size_t>(shape.rows(m)), 0.0);
  }
}

uint64_t BlockStatistics::token_bytes(const LlamaShape& shape) {
  uint64_t floats = 0;
  for (const LayerMatrix m : {kQ, kO, kGate, kDown}) floats += static_cast<uint64_t>(shape.cols(m));
  return floats * sizeof(float);
}

void BlockStatistics::begin_round(Eigen::Index tokens, size_t pieces) {
  round_tokens_ = tokens;
  pieces_.resize(pieces);
  for (Layer& layer : layers_) {
    const Eigen::Index n = layer.activation.sum.cols();
    if (n != 0 && layer.input.rows() < tokens) layer.input.resize(tokens, n);
    layer.omega.resize(static_cast<size_t>(tokens));
  }
}

void BlockStatistics::take(size_t piece, Eigen::Index at, std::span<const uint32_t> lengths,
                           const LlamaBlock<float>& block) {
  RowMatrix<float> gradient;
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    const RowMatrix<float>& x = block.input(m);
    const RowMatrix<float>& g = block.output_gradient(m);
    if (input_owner(m) == m) layers_[i].input.middleRows(at, x.rows()) = x;
    RowVector<float>& rows = pieces_[piece].rows[i];
    rows.setZero(g.cols());
    for (Eigen::Index t = 0; t < g.rows(); ++t) {
      rows += g.row(t).cwiseAbs2();
      layers_[i].omega[static_cast<size_t>(at + t)] = g.row(t).squaredNorm() / static_cast<float>(g.cols());
    }
    double& energy = pieces_[piece].energy[i];
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
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    Layer& layer = layers_[i];
    layer.fisher.x = &layers_[input_owner(static_cast<LayerMatrix>(i))].input;
    layer.fisher.weight = layer.omega.data();
    moments.push_back(&layer.fisher);
    if (layer.activation.sum.size() != 0) {
      layer.activation.x = &layer.input;
      moments.push_back(&layer.activation);
    }
    for (const PieceSums& piece : pieces_) {
      for (size_t r = 0; r < layer.rows.size(); ++r) layer.rows[r] += double{piece.rows[i][eigen_index(r)]};
      layer.energy += piece.energy[i];
    }
  }
  add_moments(moments, round_tokens_, runner);
}

/// An error of W acts at every token of a sequence, and what it does at one token may add to what it does at another:
/// v_proj's outputs are averaged by the attention, so that there the sum of the tokens' own effects falls short by a
/// factor of two. The whole effect of an error without direction is known, as the squared norm of the gradient of the
/// sequence; the second moment is scaled to it. (On gutenlm that is all there is to gain: moments of the sequences'
/// gradients, or of v_proj's inputs as the attention averages them, served error feedback no better.)
std::vector<TensorMoments> BlockStatistics::finish(uint32_t layer, Eigen::Index tokens) {
  std::vector<TensorMoments> out;
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    Layer& l = layers_[i];
    l.fisher.finish(static_cast<double>(tokens));
    const double own = double{l.fisher.sum.trace()} * static_cast<double>(l.rows.size()) * static_cast<double>(tokens);
    if (own > 0 && l.energy > 0) l.fisher.sum *= static_cast<float>(l.energy / own);
    const bool owner = input_owner(m) == m;
    if (owner) l.activation.finish(static_cast<double>(tokens));
    out.push_back(
        {linear_name(layer, m), owner ? &l.activation.sum : nullptr, &l.fisher.sum, normalized_importance(l.rows)});
  }
  return out;
}

}  // namespace nwc
