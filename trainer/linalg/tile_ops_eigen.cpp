#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "trainer/linalg/tile_ops.h"

namespace nwc {
namespace {

using Matrix = Eigen::Map<Eigen::MatrixXd, 0, Eigen::OuterStride<>>;

Matrix matrix(const Tile& t) {
  return {t.data, static_cast<Eigen::Index>(t.rows), static_cast<Eigen::Index>(t.cols),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(t.stride))};
}

}  // namespace

bool tile_potrf(const Tile& a) {
  Matrix m = matrix(a);
  return Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>>(m).info() == Eigen::Success;  // in place
}

void tile_trsm(const Tile& l, const Tile& b) {
  Matrix m = matrix(b);
  matrix(l).triangularView<Eigen::Lower>().transpose().solveInPlace<Eigen::OnTheRight>(m);
}

// The product of the whole tile: Eigen's kernel for half of it is slower than that.
void tile_syrk(const Tile& a, const Tile& c) { tile_gemm(a, a, c); }

void tile_gemm(const Tile& a, const Tile& b, const Tile& c) {
  matrix(c).noalias() -= matrix(a) * matrix(b).transpose();
}

}  // namespace nwc
