#include "trainer/llm/layer_pass.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "trainer/linalg/multiply.h"
#include "trainer/llm/mlp_activation.h"
#include "trainer/llm/norm_rows.h"

namespace nwc {
namespace {

template <typename T>
bool wants_matrix(const LayerWeights<T>* grad, size_t m) {
  return grad != nullptr && m < grad->matrices.size() && grad->matrices[m].size() != 0;
}

template <typename T>
bool wants_vectors(const LayerWeights<T>* grad) {
  return grad != nullptr && grad->vectors.size() != 0;
}

/// Where the gradient of a vector is added up; null: nowhere.
template <typename T>
T* gradient_of(LayerWeights<T>* grad, const LayerVector& v) {
  return wants_vectors(grad) && v.size != 0 ? grad->vectors.data() + v.at : nullptr;
}

/// By how much the shared expert counts for each token, of what a router says or its gradient.
template <typename Routed>
auto share(Routed&& routed) {
  return routed.col(routed.cols() - 1);
}

/// As it lies there; null if there is none.
template <typename T>
const T* stored(const LayerWeights<T>& w, const LayerVector& v) {
  return v.size != 0 ? w.vectors.data() + v.at : nullptr;
}

}  // namespace

/// Those of a step kRoute.
template <typename T>
RouterVectors<T> LayerPass<T>::router(const LayerWeights<T>& w, const Op& op) const {
  return {stored(w, op.gain), stored(w, op.bias), stored(w, op.key_gain)};
}

/// As it is used; of size 0 if there is none.
template <typename T>
RowVector<T> LayerPass<T>::vector(const LayerWeights<T>& w, const LayerVector& v) const {
  RowVector<T> out = w.vectors.segment(v.at, v.size);
  if (v.one_plus) out.array() += T(1);
  return out;
}

template <typename T>
const RowMatrix<T>& LayerPass<T>::forward(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& x,
                                          std::span<const uint32_t> lengths) {
  begin(graph, w, x, lengths);
  for (const Op& op : graph.ops()) run(graph, w, op);
  return value(graph.output());
}

template <typename T>
void LayerPass<T>::forward_to(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& x,
                              std::span<const uint32_t> lengths, size_t matrix) {
  begin(graph, w, x, lengths);
  for (const Op& op : graph.ops()) {
    if (op.first_matrix <= matrix && matrix < op.end_matrix) return;
    run(graph, w, op);
  }
}

template <typename T>
void LayerPass<T>::begin(const LayerGraph& graph, [[maybe_unused]] const LayerWeights<T>& w, const RowMatrix<T>& x,
                         std::span<const uint32_t> lengths) {
  assert(graph.fits(w));
  assert(std::accumulate(lengths.begin(), lengths.end(), Eigen::Index{0}) == x.rows());
  assert(lengths.empty() ||
         static_cast<Eigen::Index>(*std::max_element(lengths.begin(), lengths.end())) <= graph.context());
  x_ = &x;
  lengths_.assign(lengths.begin(), lengths.end());
  values_.resize(graph.widths().size());
  gradients_.resize(graph.widths().size());
}

template <typename T>
void LayerPass<T>::run(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op) {
  const BlockSpec& spec = graph.spec();
  const RowMatrix<T>& in = value(op.in);
  RowMatrix<T>& out = values_[op.out];
  switch (op.step.kind) {
    case StepKind::kNorm: {
      RowNorm<T> norm(spec.norm, static_cast<T>(spec.norm_eps), vector(w, op.gain), vector(w, op.bias));
      out.resize(in.rows(), in.cols());
      for (Eigen::Index t = 0; t < in.rows(); ++t) norm.forward(in.row(t), out.row(t));
      break;
    }
    case StepKind::kLinear: multiply(graph, w, op); break;
    case StepKind::kQkNorm: norm_queries_and_keys(graph, w, op); break;
    case StepKind::kRotate: rotate(graph, T(1), &out); break;
    case StepKind::kAttend: attention_.forward(spec, in, lengths_, stored(w, op.gain), &out); break;
    case StepKind::kActivate: activate_block(spec, in, &out); break;
    case StepKind::kScale: out = in.array().rowwise() * vector(w, op.gain).array(); break;
    case StepKind::kAdd:
      out = value(op.base);
      out += static_cast<T>(op.step.scale) * in;
      break;
    case StepKind::kRoute: experts_.route(spec.experts, router(w, op), in, &out); break;
    case StepKind::kExperts:
      if (op.step.accumulate) {
        out = value(op.base);
      } else {
        out.setZero(in.rows(), graph.hidden());
      }
      experts_.forward(graph, w, {stored(w, op.bias), stored(w, op.key_gain)}, in, value(op.routed), &out);
      break;
    case StepKind::kShare: out = share(value(op.routed)).asDiagonal() * in; break;
  }
}

template <typename T>
void LayerPass<T>::multiply(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op) {
  const RowMatrix<T>& in = value(op.in);
  RowMatrix<T>& out = values_[op.out];
  if (op.step.accumulate) {
    out = value(op.base);
  } else {
    out.resize(in.rows(), graph.widths()[op.out]);
  }
  for (size_t m = op.first_matrix; m < op.end_matrix; ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    nwc::multiply<T>(Form::kABt, in, w.matrices[m], op.step.accumulate, out.middleCols(matrix.first_row, matrix.rows));
  }
  if (op.bias.size != 0) out.rowwise() += vector(w, op.bias);
}

/// The values stay as they are.
template <typename T>
void LayerPass<T>::norm_queries_and_keys(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op) {
  const BlockSpec& spec = graph.spec();
  const RowMatrix<T>& in = value(op.in);
  RowMatrix<T>& out = values_[op.out];
  out = in;
  Eigen::Index at = 0;
  for (const LayerVector& gain : {op.gain, op.key_gain}) {
    RowNorm<T> norm(spec.norm, static_cast<T>(spec.norm_eps), vector(w, gain));
    const Eigen::Index end = at == 0 ? spec.q_width() : spec.q_width() + spec.kv_width();
    for (; at < end; at += gain.size) {
      for (Eigen::Index t = 0; t < in.rows(); ++t)
        norm.forward(in.row(t).segment(at, gain.size), out.row(t).segment(at, gain.size));
    }
  }
}

/// direction +1 rotates queries and keys, -1 rotates gradients back by the transposed matrix. Both scale queries.
template <typename T>
void LayerPass<T>::rotate(const LayerGraph& graph, T direction, RowMatrix<T>* qkv) const {
  const BlockSpec& spec = graph.spec();
  const Eigen::Index half = graph.cosine().cols(), dim = spec.head_dim;
  const Eigen::Index queries = spec.q_width(), rotated = queries + spec.kv_width();
  RowVector<T> a(half), b(half), cosine(half), sine(half);
  Eigen::Index row = 0;
  for (const uint32_t length : lengths_) {
    for (Eigen::Index t = 0; t < static_cast<Eigen::Index>(length); ++t, ++row) {
      auto x = qkv->row(row);
      cosine = graph.cosine().row(t).template cast<T>();
      sine = graph.sine().row(t).template cast<T>();
      for (Eigen::Index col = 0; half != 0 && col < rotated; col += dim) {
        a = x.segment(col, half);
        b = x.segment(col + half, half);
        x.segment(col, half) = a.cwiseProduct(cosine) - direction * b.cwiseProduct(sine);
        x.segment(col + half, half) = b.cwiseProduct(cosine) + direction * a.cwiseProduct(sine);
      }
      if (spec.temperature_beta != 0) x.head(queries) *= static_cast<T>(graph.query_scales()[t]);
    }
  }
}

/// What of the gradients is worth computing: that of a value is, if the input's or that of a weight before it is
/// wanted.
template <typename T>
void LayerPass<T>::find_needed(const LayerGraph& graph, bool input, const LayerWeights<T>* grad) {
  needed_.assign(graph.widths().size(), false);
  needed_[0] = input;
  for (const Op& op : graph.ops()) {
    bool own = wants_vectors(grad) && op.gain.size + op.key_gain.size + op.bias.size != 0;
    for (size_t m = op.first_matrix; m < op.end_matrix; ++m) own = own || wants_matrix(grad, m);
    const bool adds = op.step.kind == StepKind::kAdd || op.step.accumulate;
    const bool routed = op.step.kind == StepKind::kExperts || op.step.kind == StepKind::kShare;
    needed_[op.out] = own || needed_[op.in] || (adds && needed_[op.base]) || (routed && needed_[op.routed]);
  }
}

/// Where the gradient at a value is to be added; zero if nothing was yet.
template <typename T>
RowMatrix<T>* LayerPass<T>::summed_gradient(size_t v) {
  if (!has_gradient_[v]) gradients_[v].setZero(value(v).rows(), value(v).cols());
  has_gradient_[v] = true;
  return &gradients_[v];
}

template <typename T>
void LayerPass<T>::add_gradient(size_t v, T scale, const RowMatrix<T>& dy) {
  if (!needed_[v]) return;
  if (!has_gradient_[v] && scale == T(1)) {
    gradients_[v] = dy;
  } else if (!has_gradient_[v]) {
    gradients_[v] = scale * dy;
  } else {
    gradients_[v] += scale * dy;
  }
  has_gradient_[v] = true;
}

template <typename T>
void LayerPass<T>::backward(const LayerGraph& graph, const LayerWeights<T>& w, const RowMatrix<T>& dy, RowMatrix<T>* dx,
                            LayerWeights<T>* grad) {
  assert(dy.rows() == value(graph.output()).rows() && dy.cols() == graph.hidden() && dx != &dy);
  find_needed(graph, dx != nullptr, grad);
  has_gradient_.assign(graph.widths().size(), false);
  add_gradient(graph.output(), T(1), dy);
  for (auto op = graph.ops().rbegin(); op != graph.ops().rend(); ++op) {
    if (needed_[op->out] && has_gradient_[op->out]) run_backward(graph, w, *op, grad);
  }
  if (dx != nullptr) dx->swap(*summed_gradient(0));
}

template <typename T>
void LayerPass<T>::run_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op,
                                LayerWeights<T>* grad) {
  const BlockSpec& spec = graph.spec();
  const RowMatrix<T>& in = value(op.in);
  const RowMatrix<T>& dy = gradients_[op.out];
  switch (op.step.kind) {
    case StepKind::kNorm: {
      RowNorm<T> norm(spec.norm, static_cast<T>(spec.norm_eps), vector(w, op.gain));
      T* const dgain = gradient_of(grad, op.gain);
      T* const dbias = gradient_of(grad, op.bias);
      RowMatrix<T>& dx = *summed_gradient(op.in);
      for (Eigen::Index t = 0; t < in.rows(); ++t) norm.backward(in.row(t), dy.row(t), dx.row(t), dgain, dbias);
      break;
    }
    case StepKind::kLinear: multiply_backward(graph, w, op, grad); break;
    case StepKind::kQkNorm: norm_queries_and_keys_backward(graph, w, op, grad); break;
    case StepKind::kRotate: rotate(graph, T(-1), &gradients_[op.out]); break;
    case StepKind::kAttend:
      attention_.backward(spec, in, lengths_, stored(w, op.gain), dy, &gradients_[op.in], gradient_of(grad, op.gain));
      has_gradient_[op.in] = true;
      break;
    case StepKind::kActivate:
      activate_block_backward(spec, in, dy, &gradients_[op.in]);
      has_gradient_[op.in] = true;
      break;
    case StepKind::kScale:
      if (T* const dgain = gradient_of(grad, op.gain))
        RowMap<T>(dgain, op.gain.size) += dy.cwiseProduct(in).colwise().sum();
      if (needed_[op.in]) *summed_gradient(op.in) += (dy.array().rowwise() * vector(w, op.gain).array()).matrix();
      break;
    case StepKind::kAdd:
      add_gradient(op.in, static_cast<T>(op.step.scale), dy);
      add_gradient(op.base, T(1), dy);
      break;
    case StepKind::kRoute:
      experts_.route_backward(spec.experts, router(w, op), in, value(op.out), dy,
                              needed_[op.in] ? summed_gradient(op.in) : nullptr,
                              {gradient_of(grad, op.gain), gradient_of(grad, op.bias), gradient_of(grad, op.key_gain)});
      break;
    case StepKind::kExperts:
      experts_.backward(graph, w, stored(w, op.key_gain), value(op.routed), dy,
                        needed_[op.in] ? summed_gradient(op.in) : nullptr,
                        needed_[op.routed] ? summed_gradient(op.routed) : nullptr, grad,
                        {gradient_of(grad, op.bias), gradient_of(grad, op.key_gain)});
      if (op.step.accumulate) add_gradient(op.base, T(1), dy);
      break;
    case StepKind::kShare: {
      if (needed_[op.routed]) share(*summed_gradient(op.routed)) += dy.cwiseProduct(in).rowwise().sum();
      if (needed_[op.in]) *summed_gradient(op.in) += share(value(op.routed)).asDiagonal() * dy;
      break;
    }
  }
}

template <typename T>
void LayerPass<T>::multiply_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op,
                                     LayerWeights<T>* grad) {
  const RowMatrix<T>& in = value(op.in);
  const RowMatrix<T>& dy = gradients_[op.out];
  for (size_t m = op.first_matrix; m < op.end_matrix; ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    const auto columns = dy.middleCols(matrix.first_row, matrix.rows);
    if (wants_matrix(grad, m)) nwc::multiply<T>(Form::kAtB, columns, in, true, grad->matrices[m]);
    if (!needed_[op.in]) continue;
    RowMatrix<T>& dx = gradients_[op.in];
    if (!has_gradient_[op.in]) dx.resize(in.rows(), in.cols());
    nwc::multiply<T>(Form::kAB, columns, w.matrices[m], has_gradient_[op.in], dx);
    has_gradient_[op.in] = true;
  }
  if (T* const dbias = gradient_of(grad, op.bias)) RowMap<T>(dbias, op.bias.size) += dy.colwise().sum();
  if (op.step.accumulate) add_gradient(op.base, T(1), dy);
}

template <typename T>
void LayerPass<T>::norm_queries_and_keys_backward(const LayerGraph& graph, const LayerWeights<T>& w, const Op& op,
                                                  LayerWeights<T>* grad) {
  const BlockSpec& spec = graph.spec();
  const RowMatrix<T>& in = value(op.in);
  const RowMatrix<T>& dy = gradients_[op.out];
  RowMatrix<T>& dx = gradients_[op.in];
  dx = dy;  // the values'
  has_gradient_[op.in] = true;
  const Eigen::Index rotated = spec.q_width() + spec.kv_width();
  dx.leftCols(rotated).setZero();
  Eigen::Index at = 0;
  for (const LayerVector& gain : {op.gain, op.key_gain}) {
    RowNorm<T> norm(spec.norm, static_cast<T>(spec.norm_eps), vector(w, gain));
    T* const dgain = gradient_of(grad, gain);
    const Eigen::Index end = at == 0 ? spec.q_width() : rotated;
    for (; at < end; at += gain.size) {
      for (Eigen::Index t = 0; t < in.rows(); ++t)
        norm.backward(in.row(t).segment(at, gain.size), dy.row(t).segment(at, gain.size),
                      dx.row(t).segment(at, gain.size), dgain, nullptr);
    }
  }
}

template class LayerPass<float>;
template class LayerPass<double>;

}  // namespace nwc
