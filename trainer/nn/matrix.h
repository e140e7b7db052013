// Dense types of the trainer: row-major, so that a batch [N][w] lies as the format lays out its matrices.
#pragma once

#include <Eigen/Core>
#include <cstddef>

namespace nwc {

template <typename T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <typename T>
using RowVector = Eigen::Matrix<T, 1, Eigen::Dynamic>;
template <typename T>
using ConstMatrixMap = Eigen::Map<const RowMatrix<T>>;
template <typename T>
using MatrixMap = Eigen::Map<RowMatrix<T>>;
template <typename T>
using ConstRowMap = Eigen::Map<const RowVector<T>>;
template <typename T>
using RowMap = Eigen::Map<RowVector<T>>;

inline Eigen::Index eigen_index(size_t n) { return static_cast<Eigen::Index>(n); }

}  // namespace nwc
