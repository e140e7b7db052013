// RMSNorm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016) of one row, with their gradients.
#pragma once

#include <cmath>

#include "runtime/format/block_spec.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// What a norm makes of a row before its gain: (x - center) * inverse. gain and bias are in use, not as stored; a bias
/// of size 0 is none.
template <typename T>
class RowNorm {
 public:
  RowNorm(NormKind kind, T epsilon, RowVector<T> gain, RowVector<T> bias = {})
      : kind_(kind), epsilon_(epsilon), gain_(std::move(gain)), bias_(std::move(bias)) {}

  Eigen::Index size() const { return gain_.size(); }

  /// *out = norm(x); rows of the same size that do not overlap unless they are the same
  template <typename In, typename Out>
  void forward(const In& x, Out&& out) {
    normalize(x);
    out = unit_.cwiseProduct(gain_);
    if (bias_.size() != 0) out += bias_;
  }

  /// dx += dL/dx; dL/dgain and dL/dbias are added to *dgain and *dbias unless those are null.
  template <typename In, typename Dy, typename Dx>
  void backward(const In& x, const Dy& dy, Dx&& dx, T* dgain, T* dbias) {
    const T inverse = normalize(x);
    scaled_ = dy.cwiseProduct(gain_);
    const T count = static_cast<T>(x.size());
    const T along = unit_.dot(scaled_) / count;
    if (kind_ == NormKind::kLayer) {
      const T mean = scaled_.sum() / count;
      dx += inverse * ((scaled_ - along * unit_).array() - mean).matrix();
    } else {
      dx += inverse * (scaled_ - along * unit_);
    }
    if (dgain != nullptr) RowMap<T>(dgain, size()) += dy.cwiseProduct(unit_);
    if (dbias != nullptr) RowMap<T>(dbias, size()) += dy;
  }

 private:
  /// unit_ = (x - center) * inverse; returns inverse.
  template <typename In>
  T normalize(const In& x) {
    const T count = static_cast<T>(x.size());
    if (kind_ == NormKind::kLayer) {
      const T center = x.sum() / count;
      unit_ = x.array() - center;
      const T inverse = T(1) / std::sqrt(unit_.squaredNorm() / count + epsilon_);
      unit_ *= inverse;
      return inverse;
    }
    const T inverse = T(1) / std::sqrt(x.squaredNorm() / count + epsilon_);
    unit_ = x * inverse;
    return inverse;
  }

  NormKind kind_;
  T epsilon_;
  RowVector<T> gain_, bias_;
  RowVector<T> unit_, scaled_;
};

}  // namespace nwc
