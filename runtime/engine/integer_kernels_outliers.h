// What integers beyond the bits of their units add to a block's sums. Included by the file of each instruction set,
// which has a copy of its own.
#pragma once

#include "runtime/engine/integer_kernels.h"

namespace nwc {

/// sums[kTokens][16] = the products of the block's outliers, which are next and those behind it. False: there are none,
/// and sums is left alone.
template <uint32_t kTokens>
[[gnu::always_inline]] static inline bool outlier_sums(const IntegerRowBlock& weights, const IntegerInputs* inputs,
                                                       uint32_t block, const uint32_t** next,
                                                       uint32_t (*sums)[kIntegerRows]) {
  const uint32_t end_column = (block + 1) * kInputBlock;
  const uint32_t* o = *next;
  if (o == weights.outliers_end || (*o & 0xffffu) >= end_column) return false;
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t r = 0; r < kIntegerRows; ++r) sums[t][r] = 0;
  }
  do {  // as Outlier has it (runtime/codec/integer_form.h)
    const uint32_t column = *o & 0xffffu, row = *o >> 16 & 15u;
    const int32_t rest = static_cast<int32_t>(*o) >> 20;
    for (uint32_t t = 0; t < kTokens; ++t) sums[t][row] += static_cast<uint32_t>(rest * inputs[t].value[column]);
    ++o;
  } while (o != weights.outliers_end && (*o & 0xffffu) < end_column);
  *next = o;
  return true;
}

}  // namespace nwc
