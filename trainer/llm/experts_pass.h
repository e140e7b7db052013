// The experts of a layer in training: which of them a token takes, and forward and backward through those.
#pragma once

#include <span>
#include <vector>

#include "trainer/llm/layer_graph.h"

namespace nwc {

/// A router's numbers, or where their gradients are added up; null: there are none, or nowhere.
/// shapes: rows [experts][hidden], bias [experts], shared_gate [hidden]
template <typename T>
struct RouterVectors {
  const T *rows = nullptr, *bias = nullptr, *shared_gate = nullptr;
};
template <typename T>
struct RouterGradients {
  T *rows = nullptr, *bias = nullptr, *shared_gate = nullptr;
};
/// The same of experts' biases: gate_up [experts][2 inner], down [experts][hidden].
template <typename T>
struct ExpertBiases {
  const T *gate_up = nullptr, *down = nullptr;
};
template <typename T>
struct ExpertBiasGradients {
  T *gate_up = nullptr, *down = nullptr;
};

/// Keeps what the backward pass needs; one object per thread. The choice of the experts counts as fixed: the gradient
/// goes through the weights of those that were chosen, and with a softmax over all experts through its sum.
template <typename T>
class ExpertsPass {
 public:
  /// *routed: numbers of the experts that a token takes, ascending; their weights; by how much the shared expert
  /// counts. As the engine chooses (runtime/engine/router.cpp). shapes: in [tokens][hidden], *routed [tokens][2
  /// per_token + 1]
  void route(const ExpertSpec& spec, const RouterVectors<T>& router, const RowMatrix<T>& in, RowMatrix<T>* routed);
  /// After route: from d_routed, whose first columns do not count; adds to *dx unless null.
  void route_backward(const ExpertSpec& spec, const RouterVectors<T>& router, const RowMatrix<T>& in,
                      const RowMatrix<T>& routed, const RowMatrix<T>& d_routed, RowMatrix<T>* dx,
                      const RouterGradients<T>& grad) const;

  /// *out += what the experts make of `in`, by their weights. shapes: in, *out [tokens][hidden]
  void forward(const LayerGraph& graph, const LayerWeights<T>& w, const ExpertBiases<T>& biases, const RowMatrix<T>& in,
               const RowMatrix<T>& routed, RowMatrix<T>* out);
  /// After forward: adds to *dx and *d_routed unless null, and to the matrices of *grad that are not empty.
  void backward(const LayerGraph& graph, const LayerWeights<T>& w, const T* down_bias, const RowMatrix<T>& routed,
                const RowMatrix<T>& dy, RowMatrix<T>* dx, RowMatrix<T>* d_routed, LayerWeights<T>* grad,
                const ExpertBiasGradients<T>& bias_grad);

  std::span<const uint32_t> tokens(uint32_t expert) const { return experts_[expert].tokens; }
  /// Of an expert's matrix: [its tokens][cols], and dL/d(output) of the product that it is part of.
  const RowMatrix<T>& input(const LayerMatrix& m) const {
    return m.linear == Linear::kDown ? experts_[m.expert].inner : experts_[m.expert].in;
  }
  const RowMatrix<T>& output_gradient(const LayerMatrix& m) const {
    return m.linear == Linear::kDown ? experts_[m.expert].d_out : experts_[m.expert].d_product;
  }

 private:
  struct Expert {
    std::vector<uint32_t> tokens, places;  ///< that take it, and as their how-manieth
    RowMatrix<T> in, product, inner;       ///< [its tokens][hidden], [2 inner], [inner]
    RowMatrix<T> d_product, d_out;         ///< [2 inner], [hidden]: by the token's weight
  };
  std::vector<Expert> experts_;
  RowMatrix<T> scores_;  ///< [tokens][experts]: what the weights are made of, before they are divided by their sum
};

extern template class ExpertsPass<float>;
extern template class ExpertsPass<double>;

}  // namespace nwc
