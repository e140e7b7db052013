// One transformer block of the Llama family with its gradients: RMSNorm, rotary grouped-query attention, RMSNorm,
// SwiGLU, no biases. The engine's arithmetic (runtime/engine/session.cpp), laid out for whole sequences and for
// backpropagation: calibration and recovery fine-tuning work with it.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// The seven matrices of a block: q, k and v, and gate and up, have the same input.
enum LayerMatrix : uint32_t { kQ, kK, kV, kO, kGate, kUp, kDown, kNumLayerMatrices };

/// The hyperparameters that a block needs, in Eigen's index type.
struct LlamaShape {
  Eigen::Index hidden = 0, inner = 0, heads = 0, kv_heads = 0, head_dim = 0;
  double epsilon = 0;
  std::vector<double> frequencies;  ///< [head_dim / 2], radians per position

  explicit LlamaShape(const ModelRecord& model);
  Eigen::Index q_width() const { return heads * head_dim; }
  Eigen::Index kv_width() const { return kv_heads * head_dim; }
  Eigen::Index rows(LayerMatrix m) const;
  Eigen::Index cols(LayerMatrix m) const;
};

/// Weights of a block, or their gradients.
template <typename T>
struct BlockWeights {
  std::array<RowMatrix<T>, kNumLayerMatrices> matrix;  ///< [out][in], indexed by LayerMatrix
  RowVector<T> attention_norm, mlp_norm;               ///< [hidden]

  template <typename U>
  BlockWeights<U> cast() const {
    BlockWeights<U> out;
    for (size_t m = 0; m < matrix.size(); ++m) out.matrix[m] = matrix[m].template cast<U>();
    out.attention_norm = attention_norm.template cast<U>();
    out.mlp_norm = mlp_norm.template cast<U>();
    return out;
  }
};

/// Forward pass that keeps what the backward pass needs. One object per thread; it may be used again and again, for
/// any block of one shape. T is float in use and double in the gradient tests.
///
/// A sequence's results do not depend on the sequences beside it, except within rounding.
template <typename T>
class LlamaBlock {
 public:
  /// max_length: tokens of the longest sequence
  LlamaBlock(const LlamaShape& shape, Eigen::Index max_length);

  /// The block's output. Sequences lie one after another, each starting at position 0.
  /// shapes: x and the result [tokens][hidden]; lengths: tokens of each sequence, together `tokens`
  /// x must stay alive until backward has run.
  const RowMatrix<T>& forward(const BlockWeights<T>& w, const RowMatrix<T>& x, std::span<const uint32_t> lengths);

  /// After forward with the same weights. *dx = dL/dx unless null; adds dL/dW to every matrix and gain of *grad that is
  /// not empty (grad may be null). What neither needs is not computed, nor is its output_gradient().
  /// shapes: dy, *dx [tokens][hidden]
  void backward(const BlockWeights<T>& w, const RowMatrix<T>& dy, RowMatrix<T>* dx, BlockWeights<T>* grad);

  /// Input of a linear layer, [tokens][in]; after forward. q, k and v share one, and so do gate and up.
  const RowMatrix<T>& input(LayerMatrix m) const;
  /// dL/d(output) of a linear layer, [tokens][out]; after backward. For q and k: before the rotation.
  const RowMatrix<T>& output_gradient(LayerMatrix m) const;

 private:
  /// What one head of one sequence works on, rows [first, first + rows) of its tokens as queries.
  struct Piece {
    Eigen::Index begin, first, rows, visible, query_col, key_col;
  };
  template <typename F>
  void for_each_piece(F&& f) const;
  void rotate(RowMatrix<T>* x, T direction) const;
  void probabilities(const Piece& piece);
  void attention_backward(const RowMatrix<T>& d_out);

  LlamaShape shape_;
  Eigen::Index max_length_;
  RowMatrix<T> cosine_, sine_;  ///< [max_length][head_dim / 2]

  const RowMatrix<T>* x_ = nullptr;
  std::vector<uint32_t> lengths_;
  RowVector<T> attention_inverse_, mlp_inverse_;  ///< [tokens] RMSNorm's reciprocals
  RowMatrix<T> attention_in_, q_, k_, v_, o_in_;  ///< q and k after the rotation
  RowMatrix<T> middle_, mlp_in_, gate_, up_, down_in_, y_;
  RowMatrix<T> p_, dp_;  ///< [kQueryRows][max_length] scratch: attention weights and their gradient
  RowMatrix<T> dq_, dk_, dv_, dmiddle_, dgate_, dup_, dy_, scratch_;
};

extern template class LlamaBlock<float>;
extern template class LlamaBlock<double>;

}  // namespace nwc
