// Products of dense matrices by the kernels of dense_kernels.h.
#pragma once

#include <cassert>
#include <type_traits>

#include "trainer/linalg/dense_kernels.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// c = the product of a and b as `form` says, or, with `add`, c += it. c has its size, and shares no memory with them.
/// T: float, or double as Eigen has it. Blocks of row-major matrices are taken as they lie.
template <typename T>
void multiply(Form form, const Eigen::Ref<const RowMatrix<T>, 0, Eigen::OuterStride<>>& a,
              const Eigen::Ref<const RowMatrix<T>, 0, Eigen::OuterStride<>>& b, bool add,
              Eigen::Ref<RowMatrix<T>, 0, Eigen::OuterStride<>> c) {
  assert((form == Form::kAtB ? a.cols() : a.rows()) == c.rows());
  assert((form == Form::kABt ? b.rows() : b.cols()) == c.cols());
  if constexpr (std::is_same_v<T, float>) {
    dense_kernels().gemm(form, {a.data(), a.rows(), a.cols(), a.outerStride()},
                         {b.data(), b.rows(), b.cols(), b.outerStride()}, add,
                         {c.data(), c.rows(), c.cols(), c.outerStride()});
  } else {
    if (!add) c.setZero();
    switch (form) {
      case Form::kAB: c.noalias() += a * b; break;
      case Form::kABt: c.noalias() += a * b.transpose(); break;
      case Form::kAtB: c.noalias() += a.transpose() * b; break;
    }
  }
}

}  // namespace nwc
