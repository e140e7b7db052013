// The four operations that a tiled factorization is made of, on tiles that one thread works on: potrf, trsm, syrk and
// gemm, named as BLAS and LAPACK name them. tile_ops_eigen.cpp has them; with -DNWC_BLAS=ON tile_ops_blas.cpp has, for
// machines whose vectors are wider than those that the trainer is compiled for.
#pragma once

#include <cstddef>

namespace nwc {

/// A tile: [rows][cols] of doubles, column-major, `stride` elements from one column to the next.
struct Tile {
  double* data;
  size_t rows, cols, stride;
};

/// A = L L^T: replaces the lower triangle of a square tile by L; what is above the diagonal is neither read nor
/// changed. False: A is not positive definite, and its content is then unspecified.
bool tile_potrf(const Tile& a);
/// B = B L^-T, where L is the lower triangle of a square tile of B's columns.
void tile_trsm(const Tile& l, const Tile& b);
/// C = C - A A^T: the lower triangle at least; what is above the diagonal may become anything.
void tile_syrk(const Tile& a, const Tile& c);
/// C = C - A B^T.
void tile_gemm(const Tile& a, const Tile& b, const Tile& c);

}  // namespace nwc
