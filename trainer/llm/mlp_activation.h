// The activations of an MLP and their derivatives, on whole matrices.
#pragma once

#include <cmath>

#include "runtime/format/block_spec.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// SiLU, quick GELU and GELU by tanh are x * sigmoid(z(x)), z(x) = slope * x + cubic * x^3: the last since
/// (1 + tanh(u)) / 2 = sigmoid(2 u).
struct SigmoidGate {
  bool is_one = false;  ///< whether the activation is of this kind
  double slope = 1, cubic = 0;
};
inline SigmoidGate sigmoid_gate(MlpActivation activation) {
  constexpr double kTwoSqrtTwoOverPi = 1.5957691216057308;
  switch (activation) {
    case MlpActivation::kSilu: return {true, 1, 0};
    case MlpActivation::kQuickGelu: return {true, 1.702, 0};
    case MlpActivation::kGeluTanh: return {true, kTwoSqrtTwoOverPi, kTwoSqrtTwoOverPi * 0.044715};
    default: return {};
  }
}

template <typename T>
T activate_one(MlpActivation activation, T x) {
  switch (activation) {
    case MlpActivation::kGelu: return T(0.5) * x * (T(1) + std::erf(x * T(0.7071067811865476)));
    case MlpActivation::kRelu: return x > 0 ? x : T(0);
    case MlpActivation::kRelu2: return x > 0 ? x * x : T(0);
    default: return x;
  }
}

template <typename T>
T activation_slope_one(MlpActivation activation, T x) {
  switch (activation) {
    case MlpActivation::kGelu:
      return T(0.5) * (T(1) + std::erf(x * T(0.7071067811865476))) +
             x * T(0.3989422804014327) * std::exp(T(-0.5) * x * x);
    case MlpActivation::kRelu: return x > 0 ? T(1) : T(0);
    case MlpActivation::kRelu2: return x > 0 ? T(2) * x : T(0);
    default: return T(1);
  }
}

/// *out = activation(gate), times up unless that is null. shapes: all [tokens][inner], gate and up with any stride
template <typename T, typename In>
void activate_forward(MlpActivation activation, const In& gate, const In* up, RowMatrix<T>* out) {
  const SigmoidGate s = sigmoid_gate(activation);
  const auto x = gate.array();
  if (!s.is_one) {
    *out = gate.unaryExpr([activation](T v) { return activate_one(activation, v); });
  } else if (s.cubic != 0) {
    *out = x / (T(1) + (-(x * (static_cast<T>(s.slope) + static_cast<T>(s.cubic) * x.square()))).exp());
  } else if (s.slope != 1) {
    *out = x / (T(1) + (-(static_cast<T>(s.slope) * x)).exp());
  } else {
    *out = x / (T(1) + (-x).exp());
  }
  if (up != nullptr) out->array() *= up->array();
}

/// *dgate and *dup, the gradients at gate and up, from dy at what activate_forward made of them; up and dup may be
/// null. shapes: all [tokens][inner], with any stride but dy
template <typename T, typename In, typename Out>
void activate_backward(MlpActivation activation, const In& gate, const In* up, const RowMatrix<T>& dy, Out* dgate,
                       Out* dup) {
  const SigmoidGate s = sigmoid_gate(activation);
  const auto x = gate.array();
  if (s.is_one) {
    const T a = static_cast<T>(s.slope), b = static_cast<T>(s.cubic);
    const RowMatrix<T> sigmoid = T(1) / (T(1) + (-(x * (a + b * x.square()))).exp());
    const auto y = sigmoid.array();
    const auto slope = T(1) + x * (a + T(3) * b * x.square()) * (T(1) - y);  // of the activation, over the sigmoid
    if (up != nullptr) {
      dup->array() = dy.array() * x * y;
      dgate->array() = dy.array() * up->array() * y * slope;
    } else {
      dgate->array() = dy.array() * y * slope;
    }
    return;
  }
  const RowMatrix<T> slope = gate.unaryExpr([activation](T v) { return activation_slope_one(activation, v); });
  if (up != nullptr) {
    const RowMatrix<T> value = gate.unaryExpr([activation](T v) { return activate_one(activation, v); });
    dup->array() = dy.array() * value.array();
    dgate->array() = dy.array() * up->array() * slope.array();
  } else {
    dgate->array() = dy.array() * slope.array();
  }
}

/// Gate and up within the bounds of a block that has some, and up plus 1 where it is meant so. shapes: in as of
/// activate_block
template <typename T>
RowMatrix<T> bounded_inputs(const BlockSpec& spec, const RowMatrix<T>& in) {
  RowMatrix<T> out = in;
  const Eigen::Index inner = spec.gated ? in.cols() / 2 : in.cols();
  const T bound = static_cast<T>(spec.clamp);
  if (bound != 0) out.leftCols(inner) = out.leftCols(inner).cwiseMin(bound);
  if (!spec.gated) return out;
  if (bound != 0) out.rightCols(inner) = out.rightCols(inner).cwiseMin(bound).cwiseMax(-bound);
  if (spec.up_plus_one) out.rightCols(inner).array() += T(1);
  return out;
}

/// What a block's activation makes of gate and up beside each other, or of up alone.
/// shapes: in [tokens][2 inner] or [tokens][inner], *out [tokens][inner]
template <typename T>
void activate_block(const BlockSpec& spec, const RowMatrix<T>& in, RowMatrix<T>* out) {
  if (spec.clamp != 0 || spec.up_plus_one) {
    const RowMatrix<T> bounded = bounded_inputs(spec, in);
    BlockSpec plain = spec;
    plain.clamp = 0;
    plain.up_plus_one = false;
    return activate_block(plain, bounded, out);
  }
  const Eigen::Index inner = spec.gated ? in.cols() / 2 : in.cols();
  const auto gate = in.leftCols(inner), up = in.rightCols(inner);
  activate_forward(spec.activation, gate, spec.gated ? &up : nullptr, out);
}

/// *dx = the gradient at `in`, from dy at what activate_block made of it.
template <typename T>
void activate_block_backward(const BlockSpec& spec, const RowMatrix<T>& in, const RowMatrix<T>& dy, RowMatrix<T>* dx) {
  if (spec.clamp != 0 || spec.up_plus_one) {
    const RowMatrix<T> bounded = bounded_inputs(spec, in);
    BlockSpec plain = spec;
    plain.clamp = 0;
    plain.up_plus_one = false;
    activate_block_backward(plain, bounded, dy, dx);
    const T bound = static_cast<T>(spec.clamp);
    if (bound == 0) return;
    const Eigen::Index inner = spec.gated ? in.cols() / 2 : in.cols();
    for (Eigen::Index t = 0; t < in.rows(); ++t) {
      for (Eigen::Index i = 0; i < in.cols(); ++i) {
        if (in(t, i) > bound || (i >= inner && in(t, i) < -bound)) (*dx)(t, i) = 0;
      }
    }
    return;
  }
  const Eigen::Index inner = spec.gated ? in.cols() / 2 : in.cols();
  dx->resize(in.rows(), in.cols());
  const auto gate = in.leftCols(inner), up = in.rightCols(inner);
  auto dgate = dx->leftCols(inner), dup = dx->rightCols(inner);
  activate_backward(spec.activation, gate, spec.gated ? &up : nullptr, dy, &dgate, &dup);
}

}  // namespace nwc
