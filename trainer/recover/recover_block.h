// Recovery fine-tuning of one transformer block (paper, section 3.3 and A.5). Some of its layers are already coded. The
// others are tuned so that the block's output comes back to the output of the uncompressed block.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/base/thread_pool.h"
#include "trainer/llm/layer_pass.h"

namespace nwc {

/// True for the matrices of a block that stay as they are, by their place in LayerGraph::matrices().
using FrozenMatrices = std::vector<bool>;

/// The inputs of a block and the outputs that it should have. Sequences lie one after another; all matrices are
/// [tokens][hidden].
struct RecoveryData {
  const RowMatrix<float>* inputs = nullptr;  ///< of the uncompressed model, or of the compressed blocks before this one
  const RowMatrix<float>* targets = nullptr;  ///< the uncompressed block's output on the uncompressed model's features
  std::span<const uint32_t> lengths;          ///< tokens of each sequence
  std::span<const float> token_weight;        ///< [tokens], not negative; empty: all 1
  /// [hidden][hidden], symmetric and positive semidefinite: an error d of a token's output costs d M d^T. With
  /// M = E[g g^T], g the gradient at the output, that is the KL divergence to second order. Null: |d|^2 as in the
  /// paper.
  const RowMatrix<float>* metric = nullptr;
};

struct RecoveryOptions {
  uint32_t epochs = 8;
  uint32_t batch_tokens = 2048;  ///< whole sequences, at least so many tokens, per update
  double learning_rate = 1e-2;   ///< of Adam, as a share of each tensor's root mean square
  bool tune_norms = true;        ///< gains and biases as well
  double validation = 0.125;     ///< share of the sequences that only judges; too few for one sequence: all judge
  uint64_t seed = 1;             ///< of the order of the sequences
};

/// Weighted squared error of the block's output, divided by that of an empty block (output = input), on the sequences
/// that judge.
struct RecoveryResult {
  double before = 0, after = 0;
  uint32_t best_epoch = 0;  ///< whose weights were kept; 0: the given ones
};

/// Tunes *weights in place; the frozen ones come back bit for bit. What the epochs reach is judged on sequences that
/// are not trained on, and the best weights are kept, so that `after` is never above `before`. Deterministic: the same
/// result at any number of threads. Memory: ten times the block's weights at most, and the activations of one sequence
/// per thread. progress: in epochs.
/// errors: kInvalidArgument (shapes or lengths disagree, no tokens, options out of range), kCorrupt (not finite),
///         kCancelled (*weights then holds the best so far)
Result<RecoveryResult> recover_block(const LayerGraph& graph, LayerWeights<float>* weights,
                                     const FrozenMatrices& frozen, const RecoveryData& data,
                                     const RecoveryOptions& options, Runner& runner, const Progress& progress = {});

}  // namespace nwc
