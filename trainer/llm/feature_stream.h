// The features of a model's blocks, one block after another: what recovery fine-tuning restores.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/llm/model_graph.h"

namespace nwc {

/// *hidden becomes the layer's output. Sequences lie one after another. The result does not depend on the threads.
/// shapes: *hidden [tokens][hidden]; lengths: tokens of each sequence, together `tokens`
void forward_layer(const LayerGraph& graph, const LayerWeights<float>& weights, std::span<const uint32_t> lengths,
                   RowMatrix<float>* hidden, Runner& runner);

/// Lengths of the sequences that `tokens` tokens are cut into; the last may be shorter.
std::vector<uint32_t> cut_sequences(size_t tokens, uint32_t context);

/// The sum of each token's embeddings, in front of the norm that an encoder may have there: [tokens][hidden].
/// errors: kInvalidArgument (no tokens, a token out of range), those of ModelGraph::load_embedding
Result<RowMatrix<float>> embed_sequences(const ModelGraph& graph, std::span<const uint32_t> tokens,
                                         std::span<const uint32_t> lengths);

/// What enters block 0, with these matrices in place of the model's own. positions: empty if there are none
/// errors: those of ModelGraph
Result<RowMatrix<float>> front_states(const ModelGraph& graph, const RowMatrix<float>& embedding,
                                      const RowMatrix<float>& positions, std::span<const uint32_t> tokens,
                                      std::span<const uint32_t> lengths);

/// Reads block after block of the uncompressed model and computes its output. Memory: one block's weights and twice
/// [tokens][hidden]. The graph must outlive it.
class FeatureStream {
 public:
  /// Stands in front of block 0. The sequences have graph.context() tokens.
  /// errors: kInvalidArgument (no tokens, a token out of range), those of ModelGraph::load_embedding
  static Result<FeatureStream> open(const ModelGraph& graph, std::span<const uint32_t> tokens);

  /// The same with embeddings, in front of the norm that an encoder may have there, in place of tokens:
  /// [sequences * graph.context()][hidden].
  static Result<FeatureStream> open(const ModelGraph& graph, const RowMatrix<float>& states);

  /// Takes the next block: inputs() and outputs() are then its own. errors: kInvalidArgument (no block left), those of
  /// ModelGraph::load_layer
  Status advance(Runner& runner);

  const std::vector<uint32_t>& lengths() const { return lengths_; }
  /// Number of blocks taken; the current one is `taken() - 1`.
  uint32_t taken() const { return taken_; }
  const LayerWeights<float>& weights() const { return weights_; }
  const RowMatrix<float>& inputs() const { return inputs_; }
  const RowMatrix<float>& outputs() const { return outputs_; }  ///< before the first advance(): the embedding's

 private:
  FeatureStream(const ModelGraph& graph, std::vector<uint32_t> lengths)
      : graph_(&graph), lengths_(std::move(lengths)) {}

  const ModelGraph* graph_;
  std::vector<uint32_t> lengths_;
  uint32_t taken_ = 0;
  LayerWeights<float> weights_;
  RowMatrix<float> inputs_, outputs_;
};

}  // namespace nwc
