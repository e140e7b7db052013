// The statistics of one block's matrices, collected while its gradients are computed.
#pragma once

#include "trainer/calib/calibration_files.h"
#include "trainer/calib/second_moments.h"
#include "trainer/llm/layer_pass.h"

namespace nwc {

/// Each stored matrix has its own, fused ones as what they are. Those that share an input share its `.hessian`. Those
/// of an expert are of the tokens that take it, drawn towards what all experts of the layer have. It works in rounds of
/// a bounded number of tokens: begin_round, then take for each piece (in parallel), then end_round.
class BlockStatistics {
 public:
  /// activations: E[x x^T], too. The Fisher matrices do without, and it takes as long as one of them.
  BlockStatistics(const LayerGraph& graph, bool activations);

  /// Bytes of memory that a token of a round takes.
  static uint64_t token_bytes(const LayerGraph& graph);

  void begin_round(Eigen::Index tokens, size_t pieces);
  /// To be called after the block's backward pass over the sequences of a piece. The piece's tokens begin at `at` in
  /// this round.
  void take(size_t piece, Eigen::Index at, std::span<const uint32_t> lengths, const LayerPass<float>& pass);
  /// Rank 0 then has the sums, which are of all ranks' pieces. errors: those of Ranks
  Status end_round(Ranks& ranks, Runner& runner);

  /// On rank 0: turns sums over `tokens` tokens into means; the result points into this object.
  /// names: of the matrices
  std::vector<TensorMoments> finish(const std::vector<std::string>& names, Eigen::Index tokens);

 private:
  struct Matrix {
    SecondMoment activation;  ///< of an input owner only, where it is wanted
    SecondMoment fisher;
    RowMatrix<float> input;    ///< of an input owner only: [tokens of the round][n]
    std::vector<float> omega;  ///< [tokens of the round] mean over rows of g^2
    std::vector<double> rows;  ///< [m] sum over tokens of g^2
    double energy = 0;         ///< sum over sequences of |sum over tokens of g x^T|^2
    double taken = 0;          ///< of an expert: tokens that took it
  };
  struct PieceSums {
    Eigen::Index at = 0, tokens = 0;     ///< in the round
    std::vector<RowVector<float>> rows;  ///< of each matrix
    std::vector<double> energy;
    // Of experts, of the tokens that take them:
    std::vector<RowMatrix<float>> input;    ///< of input owners
    std::vector<std::vector<float>> omega;  ///< of each matrix
  };

  bool of_expert(size_t m) const { return m >= graph_.first_expert_matrix(); }
  MomentPart part_of(size_t piece, size_t m) const;
  void add_pieces();
  void shrink_experts(Eigen::Index tokens);
  bool owns_input(size_t m) const { return graph_.matrices()[m].input_owner == m; }

  const LayerGraph& graph_;
  const bool activations_;
  std::vector<Matrix> matrices_;
  std::vector<PieceSums> pieces_;
};

}  // namespace nwc
