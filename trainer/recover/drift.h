// Drift correction: what enters a product of the coded model is not what enters it in the uncompressed one, for all
// that is coded before it has errors. Its matrices are moved, before they are coded, so that they make up for as much
// of that as a linear map can.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/base/thread_pool.h"
#include "trainer/llm/layer_pass.h"
#include "trainer/recover/tuning_sequences.h"
#include "trainer/search/error_feedback.h"

namespace nwc {

struct DriftOptions {
  bool enabled = false;
  double damping = 0.01;  ///< added to the diagonal of the inputs' second moments, times its median
  /// Of the move that is best for the text: the rest would be good for this text only. SmolLM2-135M, corrected on text
  /// of its own, loses on other kinds with all of it what it gains on its own.
  double share = 0.6;
  double validation = 0.125;  ///< share of the sequences that only judges; too few for one sequence: all judge
};

/// With x the inputs of a product in the uncompressed model, x^ those in the coded one, and b and b^ what the product
/// is added to, if it is added to something, W becomes
///   W + (s W C + r R) (H + damping I)^-1,
/// H = sum of x^ x^^T, C = sum of (x - x^) x^^T and R = sum of (b - b^) x^^T over the tokens of a text: for s = r = 1
/// that is the least squares solution of W' x^ + b^ = W x + b. Of few tokens for the number of inputs it would follow
/// the text's chances, so s and r are a share of those, between 0 and 1, that are best on sequences that C, R and H
/// leave out.
/// Li et al., "GPTAQ" (2025), and Zhang et al., "Qronos" (2025), have the part of the inputs. Experts stay as they are.
class DriftCorrection {
 public:
  /// What it takes of a block's tokens, with those passes that bring it from block to block, in forward passes.
  static double passes(const LayerGraph& graph);
  /// Bytes that it takes at most, with `tokens` states of the original and of the coded model, and the block itself.
  static uint64_t memory_bytes(const LayerGraph& graph, uint64_t tokens, uint32_t workers);

  /// lengths: tokens of the sequences, which lie one after another. All have to outlive it.
  DriftCorrection(const LayerGraph& graph, std::span<const uint32_t> lengths, const DriftOptions& options,
                  Runner& runner);

  /// Moves the matrices of this product. Deterministic: the same at any number of threads.
  /// original, inputs: the block and what enters it in the uncompressed model; drifted: what enters the coded one;
  /// *weights: of its block, coded up to this product. shapes: inputs, drifted [tokens][hidden].
  /// errors: kCorrupt (not finite)
  Status correct(Linear linear, const LayerWeights<float>& original, const RowMatrix<float>& inputs,
                 const RowMatrix<float>& drifted, LayerWeights<float>* weights);
  /// s and r of every matrix that was moved, r where there is one.
  const std::vector<double>& strengths() const { return strengths_; }

 private:
  struct Moments {
    RowMatrix<float> second;    ///< [n][n] H
    RowMatrix<float> inputs;    ///< [n][n] C
    RowMatrix<float> residual;  ///< [hidden][n] R, or empty
  };
  struct Blocks {
    const LayerWeights<float>&original, &weights;
    const RowMatrix<float>&inputs, &drifted;
  };
  Moments measure(size_t matrix, std::span<const Sequence> sequences, const Blocks& blocks);
  void add_product(const RowMatrix<float>& a, const RowMatrix<float>& b, Eigen::Index tokens, RowMatrix<float>* sum);
  void move(const Moments& fitted, const FeedbackFactors& factors, const Moments& judging, RowMatrix<float>* w);

  const LayerGraph& graph_;
  const DriftOptions& options_;
  const TuningSequences sequences_;
  Runner& runner_;
  std::vector<LayerPass<float>> passes_;
  std::vector<RowMatrix<float>> in_;  ///< of each thread
  std::vector<double> strengths_;
};

}  // namespace nwc
