// The dense operations in which an encoder spends its time, each on one thread: products of floats, and what a tiled
// factorization is made of. Eigen has them. On x86-64 they are compiled twice, for the trainer's instruction set and
// for AVX-512, and the processor decides which are called: sums are rounded in another order, so that files have the
// same bytes only on processors of one kind.
#pragma once

#include <cstddef>

#include "runtime/base/cpu_features.h"
#include "trainer/linalg/tile_ops.h"

namespace nwc {

/// Matrices of floats, row-major: `stride` numbers from one row to the next.
struct ConstRows {
  const float* data;
  ptrdiff_t rows, cols, stride;
};
struct Rows {
  float* data;
  ptrdiff_t rows, cols, stride;
};

/// Which factor of a product is transposed.
enum class Form { kAB, kABt, kAtB };

struct DenseKernels {
  CpuLevel level;  ///< that the processor needs; kScalar: what the trainer is compiled for
  /// c = the product of a and b, or c += it. c shares no memory with them.
  void (*gemm)(Form form, const ConstRows& a, const ConstRows& b, bool add, const Rows& c);
  // Of tile_ops.h:
  bool (*potrf)(const Tile& a);
  void (*trsm)(const Tile& l, const Tile& b);
  void (*tile_gemm)(const Tile& a, const Tile& b, const Tile& c);
};

/// Those for a processor that runs `most` and what is below it.
const DenseKernels& dense_kernels(CpuLevel most);
/// Those of this machine.
const DenseKernels& dense_kernels();

}  // namespace nwc
