// Products with integer weights (runtime/codec/integer_form.h), one table of functions per instruction set.
//
// The inputs times their columns' factors become integers of 16 bits with one scale for kInputBlock columns, so that a
// block's sum of products, those of outliers included, is exact in 32 bits. What the sums are does not depend on the
// bits of the units, either. The sums of the blocks, as f32 times their scale, are added in order by fused
// multiply-adds. So every instruction set gives the same result to the bit, whatever the number of tokens or threads
// is. Where a unit's rows have scales of their own, the sum of a block is that of its units' exact sums times these
// scales, added in order by fused multiply-adds, too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/cpu_features.h"

namespace nwc {

/// Columns that share a scale: 4 units. An input is off by at most half a step, 2^-16 of the largest of its block.
inline constexpr uint32_t kInputBlock = 128;
/// Columns of a unit, and units of a block: kUnitCols, which files of an instruction set cannot include.
inline constexpr uint32_t kUnitColumns = 32, kUnitsPerBlock = kInputBlock / kUnitColumns;
/// The largest input: its two digits of a byte have signs, |hi| and |lo| up to 127 and 128.
inline constexpr int32_t kLargestInput = 127 * 256 + 127;
/// Rows of a row block, which a kernel multiplies at a time.
inline constexpr uint32_t kIntegerRows = 16;
/// Most tokens of a call of a kernel.
inline constexpr uint32_t kIntegerTokens = 8;

/// Inputs of one token. Sizes are those of the padded columns and their blocks.
struct IntegerInputs {
  const int16_t* value = nullptr;  ///< [padded columns]
  const int8_t* digits = nullptr;  ///< [padded columns / 4][hi, lo][4]: value = 256 hi + lo
  const float* scale = nullptr;    ///< [blocks]
  /// [blocks], for dot_scaled [units]: minus the sum of value times the bias of its unit's integers, modulo 2^32.
  const int32_t* correction = nullptr;
};

/// The units of one row block.
struct IntegerRowBlock {
  const uint8_t* units = nullptr;
  const uint8_t* bits = nullptr;  ///< [num_units]
  uint32_t num_units = 0;
  const uint32_t* outliers = nullptr;  ///< for dot(), in order of columns, up to outliers_end
  const uint32_t* outliers_end = nullptr;
  const uint16_t* scales = nullptr;  ///< bf16 [num_units][16], for dot_scaled, whose units have 8 bits
};

struct IntegerKernels {
  bool wants_digits;
  /// y[tokens][16] = sums over all columns, before row scales. tokens: 1 to kIntegerTokens.
  void (*dot)(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens, float (*y)[kIntegerRows]);
  /// The same with the signs of the integers, -1, 0 and 1, in their place, and a bias of 1.
  void (*dot_signs)(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                    float (*y)[kIntegerRows]);
  /// The same as dot() with scales for the rows of each unit.
  void (*dot_scaled)(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                     float (*y)[kIntegerRows]);
};

/// The table of the best level up to `level` that this build and machine have.
const IntegerKernels& integer_kernels(CpuLevel level);

extern const IntegerKernels kScalarIntegers;
#if defined(__x86_64__)
extern const IntegerKernels kAvx2Integers;
extern const IntegerKernels kVnniIntegers;
#elif defined(__aarch64__)
extern const IntegerKernels kNeonIntegers;
#endif

}  // namespace nwc
