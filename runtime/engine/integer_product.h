// Products of tokens with matrices whose weights are integers, parallel through a Runner.
#pragma once

#include <span>

#include "runtime/base/thread_pool.h"
#include "runtime/codec/integer_form.h"
#include "runtime/engine/integer_kernels.h"

namespace nwc {

/// One matrix of a product; the matrices of a product have the same inputs.
struct IntegerMatrix {
  const IntegerForm* form = nullptr;
  const uint8_t* data = nullptr;  ///< as decode_integers wrote it
  float* y = nullptr;             ///< first output of the first token
};
/// Most matrices of a product: queries, keys and values.
inline constexpr size_t kMostMatrices = 3;

/// Bytes of scratch memory, aligned to 64, that multiply_integers needs.
uint64_t integer_scratch(uint64_t cols, uint32_t tokens);

/// y[t][rows] = x[t][cols] W^T for each of the matrices. y of row i is within 2^-16 sum_b max_j |factor_j x_j| sum_j
/// (|q_ij| + shrink_j) row_scale_i, over blocks b of kInputBlock columns j, of the exact product with the decoded
/// weights, and the rounding of f32 sums. The result depends neither on the runner, nor on the instruction set, nor on
/// the bits of the units, nor on other tokens. ldx, ldy: strides in floats.
void multiply_integers(CpuLevel level, Runner& runner, std::span<const IntegerMatrix> matrices, uint32_t tokens,
                       const float* x, size_t ldx, size_t ldy, uint8_t* scratch);

}  // namespace nwc
