#include "trainer/llm/experts_pass.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "trainer/linalg/multiply.h"
#include "trainer/llm/mlp_activation.h"

namespace nwc {
namespace {

template <typename T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <typename T>
void softmax(T* x, std::span<const uint32_t> which) {
  T largest = x[which[0]], sum = 0;
  for (const uint32_t e : which) largest = std::max(largest, x[e]);
  for (const uint32_t e : which) sum += x[e] = std::exp(x[e] - largest);
  for (const uint32_t e : which) x[e] /= sum;
}

/// The products of `rows` rows of matrices first .. end - 1 of the graph, beside each other.
template <typename T>
void multiply(const LayerGraph& graph, const LayerWeights<T>& w, size_t first, size_t end, const RowMatrix<T>& in,
              RowMatrix<T>* out) {
  const LayerMatrix& last = graph.matrices()[end - 1];
  out->resize(in.rows(), last.first_row + last.rows);
  for (size_t m = first; m < end; ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    nwc::multiply<T>(Form::kABt, in, w.matrices[m], false, out->middleCols(matrix.first_row, matrix.rows));
  }
}

}  // namespace

template <typename T>
void ExpertsPass<T>::route(const ExpertSpec& spec, const RouterVectors<T>& router, const RowMatrix<T>& in,
                           RowMatrix<T>* routed) {
  const Eigen::Index experts = spec.num_experts, k = spec.per_token;
  const bool sigmoids = spec.router == RouterKind::kSigmoid;
  scores_.noalias() = in * ConstMatrixMap<T>(router.rows, experts, in.cols()).transpose();
  routed->resize(in.rows(), 2 * k + 1);
  std::vector<uint32_t> order(spec.num_experts);
  RowVector<T> rank(experts);
  for (Eigen::Index t = 0; t < in.rows(); ++t) {
    T* const scores = scores_.row(t).data();
    std::iota(order.begin(), order.end(), 0u);
    if (sigmoids) {
      for (Eigen::Index e = 0; e < experts; ++e) scores[e] = sigmoid(scores[e]);
    } else if (router.bias != nullptr) {
      scores_.row(t) += ConstRowMap<T>(router.bias, experts);
    }
    if (spec.router == RouterKind::kSoftmaxThenTopK) softmax<T>(scores, order);
    rank = scores_.row(t);
    if (sigmoids && router.bias != nullptr) rank += ConstRowMap<T>(router.bias, experts);
    rank = rank.unaryExpr([](T v) { return std::isnan(v) ? -std::numeric_limits<T>::infinity() : v; }).eval();
    std::partial_sort(order.begin(), order.begin() + k, order.end(),
                      [&](uint32_t a, uint32_t b) { return rank[a] > rank[b] || (rank[a] == rank[b] && a < b); });
    std::sort(order.begin(), order.begin() + k);
    const std::span<const uint32_t> chosen(order.data(), spec.per_token);
    if (spec.router == RouterKind::kTopKThenSoftmax) softmax<T>(scores, chosen);
    T factor = static_cast<T>(spec.scale);
    if (spec.normalized) {
      T sum = 0;
      for (const uint32_t e : chosen) sum += scores[e];
      factor /= sum;
    }
    for (Eigen::Index i = 0; i < k; ++i) {
      (*routed)(t, i) = static_cast<T>(chosen[static_cast<size_t>(i)]);
      (*routed)(t, k + i) = scores[chosen[static_cast<size_t>(i)]] * factor;
    }
    (*routed)(t, 2 * k) = T(1);
    if (router.shared_gate != nullptr)
      (*routed)(t, 2 * k) = sigmoid(in.row(t).dot(ConstRowMap<T>(router.shared_gate, in.cols())));
  }
}

template <typename T>
void ExpertsPass<T>::route_backward(const ExpertSpec& spec, const RouterVectors<T>& router, const RowMatrix<T>& in,
                                    const RowMatrix<T>& routed, const RowMatrix<T>& d_routed, RowMatrix<T>* dx,
                                    const RouterGradients<T>& grad) const {
  const Eigen::Index experts = spec.num_experts, k = spec.per_token;
  RowMatrix<T> d_logits = RowMatrix<T>::Zero(in.rows(), experts);
  for (Eigen::Index t = 0; t < in.rows(); ++t) {
    const auto scores = scores_.row(t);
    auto d = d_logits.row(t);
    T sum = 1, mean = 0;
    if (spec.normalized) {
      sum = 0;
      for (Eigen::Index i = 0; i < k; ++i) sum += scores[static_cast<Eigen::Index>(routed(t, i))];
      for (Eigen::Index i = 0; i < k; ++i)
        mean += d_routed(t, k + i) * scores[static_cast<Eigen::Index>(routed(t, i))] / sum;
    }
    T along = 0;  // of the scores' gradient
    for (Eigen::Index i = 0; i < k; ++i) {
      const auto e = static_cast<Eigen::Index>(routed(t, i));
      d[e] = static_cast<T>(spec.scale) / sum * (d_routed(t, k + i) - mean);
      along += d[e] * scores[e];
    }
    switch (spec.router) {
      case RouterKind::kSigmoid: d.array() *= scores.array() * (T(1) - scores.array()); break;
      case RouterKind::kSoftmaxThenTopK: d.array() = scores.array() * (d.array() - along); break;
      case RouterKind::kTopKThenSoftmax:
        for (Eigen::Index i = 0; i < k; ++i) {
          const auto e = static_cast<Eigen::Index>(routed(t, i));
          d[e] = scores[e] * (d[e] - along);
        }
        break;
    }
  }
  const ConstMatrixMap<T> rows(router.rows, experts, in.cols());
  if (dx != nullptr) dx->noalias() += d_logits * rows;
  if (grad.rows != nullptr) MatrixMap<T>(grad.rows, experts, in.cols()).noalias() += d_logits.transpose() * in;
  // Beside sigmoids a bias decides about the choice only.
  if (grad.bias != nullptr && spec.router != RouterKind::kSigmoid)
    RowMap<T>(grad.bias, experts) += d_logits.colwise().sum();
  if (router.shared_gate == nullptr) return;
  const RowVector<T> share = routed.col(2 * k).transpose();
  const RowVector<T> d_gate =
      (d_routed.col(2 * k).transpose().array() * share.array() * (T(1) - share.array())).matrix();
  if (dx != nullptr) dx->noalias() += d_gate.transpose() * ConstRowMap<T>(router.shared_gate, in.cols());
  if (grad.shared_gate != nullptr) RowMap<T>(grad.shared_gate, in.cols()).noalias() += d_gate * in;
}

template <typename T>
void ExpertsPass<T>::forward(const LayerGraph& graph, const LayerWeights<T>& w, const ExpertBiases<T>& biases,
                             const RowMatrix<T>& in, const RowMatrix<T>& routed, RowMatrix<T>* out) {
  const BlockSpec& spec = graph.spec();
  const Eigen::Index k = spec.experts.per_token, hidden = in.cols(), inner = spec.experts.intermediate_size;
  experts_.resize(spec.experts.num_experts);
  for (Expert& expert : experts_) {
    expert.tokens.clear();
    expert.places.clear();
  }
  for (Eigen::Index t = 0; t < in.rows(); ++t) {
    for (Eigen::Index i = 0; i < k; ++i) {
      Expert& expert = experts_[static_cast<size_t>(routed(t, i))];
      expert.tokens.push_back(static_cast<uint32_t>(t));
      expert.places.push_back(static_cast<uint32_t>(k + i));
    }
  }
  RowMatrix<T> y;
  for (size_t e = 0; e < experts_.size(); ++e) {
    Expert& expert = experts_[e];
    const size_t first = graph.first_expert_matrix() + e * graph.per_expert(), down = first + graph.per_expert() - 1;
    expert.in.resize(eigen_index(expert.tokens.size()), hidden);
    for (size_t n = 0; n < expert.tokens.size(); ++n) expert.in.row(eigen_index(n)) = in.row(expert.tokens[n]);
    multiply(graph, w, first, down, expert.in, &expert.product);
    if (biases.gate_up != nullptr)
      expert.product.rowwise() += ConstRowMap<T>(biases.gate_up + eigen_index(e) * 2 * inner, 2 * inner);
    activate_block(spec, expert.product, &expert.inner);
    multiply(graph, w, down, down + 1, expert.inner, &y);
    if (biases.down != nullptr) y.rowwise() += ConstRowMap<T>(biases.down + eigen_index(e) * hidden, hidden);
    for (size_t n = 0; n < expert.tokens.size(); ++n) {
      const Eigen::Index t = expert.tokens[n];
      out->row(t) += routed(t, expert.places[n]) * y.row(eigen_index(n));
    }
  }
}

template <typename T>
void ExpertsPass<T>::backward(const LayerGraph& graph, const LayerWeights<T>& w, const T* down_bias,
                              const RowMatrix<T>& routed, const RowMatrix<T>& dy, RowMatrix<T>* dx,
                              RowMatrix<T>* d_routed, LayerWeights<T>* grad, const ExpertBiasGradients<T>& bias_grad) {
  const BlockSpec& spec = graph.spec();
  const Eigen::Index hidden = dy.cols(), inner = spec.experts.intermediate_size;
  const auto wants = [&](size_t m) {
    return grad != nullptr && m < grad->matrices.size() && grad->matrices[m].size() != 0;
  };
  RowMatrix<T> d_inner, d_in;
  for (size_t e = 0; e < experts_.size(); ++e) {
    Expert& expert = experts_[e];
    const size_t first = graph.first_expert_matrix() + e * graph.per_expert(), down = first + graph.per_expert() - 1;
    expert.d_out.resize(eigen_index(expert.tokens.size()), hidden);
    for (size_t n = 0; n < expert.tokens.size(); ++n) expert.d_out.row(eigen_index(n)) = dy.row(expert.tokens[n]);
    d_inner.resize(expert.d_out.rows(), w.matrices[down].cols());
    nwc::multiply<T>(Form::kAB, expert.d_out, w.matrices[down], false,
                     d_inner);  // before the weights: what these are worth
    for (size_t n = 0; n < expert.tokens.size(); ++n) {
      const Eigen::Index row = eigen_index(n), t = expert.tokens[n], place = expert.places[n];
      if (d_routed != nullptr) {
        T worth = d_inner.row(row).dot(expert.inner.row(row));
        if (down_bias != nullptr)
          worth += expert.d_out.row(row).dot(ConstRowMap<T>(down_bias + eigen_index(e) * hidden, hidden));
        (*d_routed)(t, place) += worth;
      }
      expert.d_out.row(row) *= routed(t, place);
      d_inner.row(row) *= routed(t, place);
    }
    activate_block_backward(spec, expert.product, d_inner, &expert.d_product);
    if (wants(down)) nwc::multiply<T>(Form::kAtB, expert.d_out, expert.inner, true, grad->matrices[down]);
    if (bias_grad.down != nullptr)
      RowMap<T>(bias_grad.down + eigen_index(e) * hidden, hidden) += expert.d_out.colwise().sum();
    if (bias_grad.gate_up != nullptr)
      RowMap<T>(bias_grad.gate_up + eigen_index(e) * 2 * inner, 2 * inner) += expert.d_product.colwise().sum();
    d_in.setZero(expert.in.rows(), hidden);
    for (size_t m = first; m < down; ++m) {
      const LayerMatrix& matrix = graph.matrices()[m];
      const auto d_rows = expert.d_product.middleCols(matrix.first_row, matrix.rows);
      if (wants(m)) nwc::multiply<T>(Form::kAtB, d_rows, expert.in, true, grad->matrices[m]);
      if (dx != nullptr) nwc::multiply<T>(Form::kAB, d_rows, w.matrices[m], true, d_in);
    }
    if (dx == nullptr) continue;
    for (size_t n = 0; n < expert.tokens.size(); ++n) dx->row(expert.tokens[n]) += d_in.row(eigen_index(n));
  }
}

template class ExpertsPass<float>;
template class ExpertsPass<double>;

}  // namespace nwc
