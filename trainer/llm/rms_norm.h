// RMSNorm (Zhang and Sennrich 2019) and its gradient.
#pragma once

#include <cmath>

#include "trainer/nn/matrix.h"

namespace nwc {

/// out = x / sqrt(mean(x^2) + epsilon) * gain, row by row; the reciprocal of the root is kept for the backward pass.
/// shapes: x, out [tokens][hidden]; gain [hidden]; inverse [tokens]
template <typename T>
void rms_norm(const RowMatrix<T>& x, const RowVector<T>& gain, T epsilon, RowMatrix<T>* out, RowVector<T>* inverse) {
  out->resize(x.rows(), x.cols());
  inverse->resize(x.rows());
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    const T inv = T(1) / std::sqrt(x.row(t).squaredNorm() / static_cast<T>(x.cols()) + epsilon);
    (*inverse)[t] = inv;
    out->row(t) = (x.row(t) * inv).cwiseProduct(gain);
  }
}

/// Adds dL/dx to dx, and dL/dgain to dgain unless that is empty.
/// shapes: x, dy, dx [tokens][hidden]; inverse as rms_norm left it; gain, dgain [hidden]
template <typename T>
void rms_norm_backward(const RowMatrix<T>& x, const RowVector<T>& inverse, const RowVector<T>& gain,
                       const RowMatrix<T>& dy, RowMatrix<T>* dx, RowVector<T>* dgain) {
  RowVector<T> unit(x.cols()), scaled(x.cols());
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    unit = x.row(t) * inverse[t];
    scaled = dy.row(t).cwiseProduct(gain);
    const T along = unit.dot(scaled) / static_cast<T>(x.cols());
    dx->row(t) += inverse[t] * (scaled - along * unit);
    if (dgain != nullptr && dgain->size() != 0) *dgain += dy.row(t).cwiseProduct(unit);
  }
}

}  // namespace nwc
