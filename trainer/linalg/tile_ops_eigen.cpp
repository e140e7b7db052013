#include "trainer/linalg/dense_kernels.h"

namespace nwc {

bool tile_potrf(const Tile& a) { return dense_kernels().potrf(a); }

void tile_trsm(const Tile& l, const Tile& b) { dense_kernels().trsm(l, b); }

// The product of the whole tile: Eigen's kernel for half of it is slower than that.
void tile_syrk(const Tile& a, const Tile& c) { tile_gemm(a, a, c); }

void tile_gemm(const Tile& a, const Tile& b, const Tile& c) { dense_kernels().tile_gemm(a, b, c); }

}  // namespace nwc
