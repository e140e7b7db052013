// The statistics of one block's seven linear layers, collected while its gradients are computed.
#pragma once

#include "trainer/calib/calibration_files.h"
#include "trainer/calib/second_moments.h"
#include "trainer/llm/llama_block.h"

namespace nwc {

/// The layer of a block whose `.hessian` is stored for m: the first of those that share m's input.
constexpr LayerMatrix input_owner(LayerMatrix m) { return m == kK || m == kV ? kQ : m == kUp ? kGate : m; }

/// It works in rounds of a bounded number of tokens: begin_round, then take for each piece (in parallel), then
/// end_round.
class BlockStatistics {
 public:
  explicit BlockStatistics(const LlamaShape& shape);

  /// Bytes of memory that a token of a round takes.
  static uint64_t token_bytes(const LlamaShape& shape);

  void begin_round(Eigen::Index tokens, size_t pieces);
  /// To be called after the block's backward pass over the sequences of a piece. The piece's tokens begin at `at` in
  /// this round.
  void take(size_t piece, Eigen::Index at, std::span<const uint32_t> lengths, const LlamaBlock<float>& block);
  void end_round(Runner& runner);

  /// Turns sums over `tokens` tokens into means; the result points into this object.
  std::vector<TensorMoments> finish(uint32_t layer, Eigen::Index tokens);

 private:
  struct Layer {
    SecondMoment activation;  ///< of an input_owner only
    SecondMoment fisher;
    RowMatrix<float> input;    ///< of an input_owner only: [tokens of the round][n]
    std::vector<float> omega;  ///< [tokens of the round] mean over rows of g^2
    std::vector<double> rows;  ///< [m] sum over tokens of g^2
    double energy = 0;         ///< sum over sequences of |sum over tokens of g x^T|^2
  };
  struct PieceSums {
    std::array<RowVector<float>, kNumLayerMatrices> rows;
    std::array<double, kNumLayerMatrices> energy{};
  };

  std::array<Layer, kNumLayerMatrices> layers_;
  std::vector<PieceSums> pieces_;
  Eigen::Index round_tokens_ = 0;
};

}  // namespace nwc
