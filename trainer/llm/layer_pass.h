// Forward and backward through one layer: the trainer's interpreter of the steps that
// runtime/engine/forward_steps_cpu.cpp runs, laid out for whole sequences and for backpropagation. Calibration and
// fine-tuning work with it.
#pragma once

#include <span>
#include <vector>

#include "trainer/llm/causal_attention.h"
#include "trainer/llm/experts_pass.h"
#include "trainer/llm/layer_graph.h"

namespace nwc {

/// Columns of a matrix.
template <typename T>
using ConstColumns = typename RowMatrix<T>::ConstColsBlockXpr;

/// Keeps what the backward pass needs. One object per thread; it may be used again and again, for layers of any kind.
/// T is float in use and double in the gradient tests.
///
/// A sequence's results do not depend on the sequences beside it, except within rounding.
template <typename T>
class LayerPass {
 public:
  /// The layer's output. Sequences lie one after another, each starting at position 0.
  /// shapes: x and the result [tokens][hidden]; lengths: tokens of each sequence, none above graph.context(), together
  /// `tokens`
  /// x must stay alive until backward has run.
  const RowMatrix<T>& forward(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& x,
                              std::span<const uint32_t> lengths);

  /// The same, but only up to what the product with `matrix` needs: its input and base are then there.
  void forward_to(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& x,
                  std::span<const uint32_t> lengths, size_t matrix);

  /// After forward with the same graph and weights. *dx = dL/dx unless null; adds dL/dW to every matrix of *grad that
  /// is not empty, and to its vectors unless those are (grad may be null). What neither needs is not computed, nor is
  /// its output_gradient(). shapes: dy, *dx [tokens][hidden]
  void backward(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& dy, RowMatrix<T>* dx,
                LayerWeights<T>* grad);

  /// Input of matrix m of the graph, [tokens][cols]; after forward. Matrices with the same input_owner share it.
  /// Of an expert's, of the tokens that take it (expert_tokens).
  const RowMatrix<T>& input(const LayerGraph& graph, size_t m) const {
    return m < graph.first_expert_matrix() ? value(graph.input_value(m)) : experts_.input(graph.matrices()[m]);
  }
  /// What the product with matrix m is added to, [tokens][rows], if it has a base; after forward.
  const RowMatrix<T>& base(const LayerGraph& graph, size_t m) const { return value(graph.base_value(m)); }
  /// dL/d(output) of matrix m, [tokens][rows]; after backward.
  ConstColumns<T> output_gradient(const LayerGraph& graph, size_t m) const {
    const LayerMatrix& matrix = graph.matrices()[m];
    const RowMatrix<T>& product =
        m < graph.first_expert_matrix() ? gradients_[graph.output_value(m)] : experts_.output_gradient(matrix);
    return product.middleCols(matrix.first_row, matrix.rows);
  }
  /// The tokens that take an expert, ascending; after forward.
  std::span<const uint32_t> expert_tokens(uint32_t expert) const { return experts_.tokens(expert); }

 private:
  using Op = LayerGraph::Op;
  const RowMatrix<T>& value(size_t v) const { return v == 0 ? *x_ : values_[v]; }
  RowVector<T> vector(const LayerWeights<T>& w, const LayerVector& v) const;
  RouterVectors<T> router(const LayerWeights<T>& w, const Op& op) const;
  void begin(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& x,
             std::span<const uint32_t> lengths);
  void run(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op);
  void multiply(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op);
  void norm_queries_and_keys(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op);
  void rotate(const LayerGraph& graph, T direction, RowMatrix<T>* qkv) const;

  void find_needed(const LayerGraph& graph, bool input, const LayerWeights<T>* grad);
  void run_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op, LayerWeights<T>* grad);
  void multiply_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op, LayerWeights<T>* grad);
  void norm_queries_and_keys_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op,
                                      LayerWeights<T>* grad);
  void add_gradient(size_t v, T scale, const RowMatrix<T>& dy);
  RowMatrix<T>* summed_gradient(size_t v);

  const RowMatrix<T>* x_ = nullptr;
  std::vector<uint32_t> lengths_;
  std::vector<RowMatrix<T>> values_, gradients_;  ///< by LayerGraph's numbers; values_[0] is unused
  std::vector<bool> needed_, has_gradient_;
  CausalAttention<T> attention_;
  ExpertsPass<T> experts_;
};

extern template class LayerPass<float>;
extern template class LayerPass<double>;

}  // namespace nwc
