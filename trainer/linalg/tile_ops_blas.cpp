// With -DNWC_BLAS=ON: a library of linear algebra that chooses its kernels when it runs. Which it chooses decides how
// sums are rounded, so that files have the same bytes only on processors of one kind.
#include <cblas.h>

#include "trainer/linalg/tile_ops.h"

// LAPACK's own name: not every library has C interfaces to it.
extern "C" void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
// OpenBLAS would start threads of its own in each of ours. Other libraries do not have this function.
extern "C" __attribute__((weak)) void openblas_set_num_threads(int count);

namespace nwc {
namespace {

int narrow(size_t n) { return static_cast<int>(n); }

const bool kOneThread = [] {
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  return true;
}();

}  // namespace

bool tile_potrf(const Tile& a) {
  const int n = narrow(a.rows), stride = narrow(a.stride);
  int info = kOneThread ? 0 : 1;
  dpotrf_("L", &n, a.data, &stride, &info);
  return info == 0;
}

void tile_trsm(const Tile& l, const Tile& b) {
  cblas_dtrsm(CblasColMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, narrow(b.rows), narrow(b.cols), 1,
              l.data, narrow(l.stride), b.data, narrow(b.stride));
}

void tile_syrk(const Tile& a, const Tile& c) {
  cblas_dsyrk(CblasColMajor, CblasLower, CblasNoTrans, narrow(c.rows), narrow(a.cols), -1, a.data, narrow(a.stride), 1,
              c.data, narrow(c.stride));
}

void tile_gemm(const Tile& a, const Tile& b, const Tile& c) {
  cblas_dgemm(CblasColMajor, CblasNoTrans, CblasTrans, narrow(c.rows), narrow(c.cols), narrow(a.cols), -1, a.data,
              narrow(a.stride), b.data, narrow(b.stride), 1, c.data, narrow(c.stride));
}

}  // namespace nwc
