// The scalar kernel, which is the reference, and the choice among its twins.
#include "runtime/engine/integer_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/engine/integer_kernels_outliers.h"

namespace nwc {
namespace {

static_assert(kUnitColumns == kUnitCols && kIntegerRows == kChunk && kInputBlock == kExactCols);
static_assert((int64_t{kMostRestOfRow} + 128 * kExactCols) * kLargestInput <= INT32_MAX);

/// a b + c, rounded once, as the instructions of the twins do it. std::fma of some C libraries (mingw-w64's) rounds
/// twice. Here the sum in double is rounded to odd first, which loses nothing that a float could see (Boldo and
/// Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
float multiply_add(float a, float b, float c) {
  const double product = double{a} * double{b};  // exact
  const double sum = product + double{c};
  const double taken = sum - product;
  const double rest = (product - (sum - taken)) + (double{c} - taken);
  uint64_t bits = std::bit_cast<uint64_t>(sum);
  if ((rest < 0 || rest > 0) && bits % 2 == 0) bits += (rest > 0) == (sum > 0) ? 1 : UINT64_MAX;
  return static_cast<float>(std::bit_cast<double>(bits));
}

template <bool kSigns>
void dot(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens, float (*y)[kIntegerRows]) {
  std::memset(y, 0, tokens * sizeof *y);
  const uint8_t* unit = weights.units;
  const uint32_t* outlier[kIntegerTokens];
  std::fill_n(outlier, tokens, weights.outliers);
  for (uint32_t first = 0; first < weights.num_units; first += kUnitsPerBlock) {
    uint32_t sum[kIntegerTokens][kIntegerRows] = {};
    for (uint32_t t = 0; !kSigns && t < tokens; ++t)
      outlier_sums<1>(weights, inputs + t, first / kUnitsPerBlock, outlier + t, sum + t);
    for (uint32_t u = first; u < weights.num_units && u < first + kUnitsPerBlock; ++u) {
      uint8_t bytes[kUnitWeights];
      unpack_unit(weights.bits[u], unit, bytes);
      unit += unit_bytes(weights.bits[u]);
      for (uint32_t t = 0; t < tokens; ++t) {
        for (uint32_t i = 0; i < kUnitWeights; ++i) {
          const int32_t x = inputs[t].value[u * kUnitCols + i / 64 * 4 + i % 4];
          const int32_t q = int32_t{bytes[i]} - integer_bias(weights.bits[u]);
          const int32_t w = kSigns ? (q > 0) - (q < 0) + 1 : int32_t{bytes[i]};
          sum[t][i % 64 / 4] += static_cast<uint32_t>(w * x);
        }
      }
    }
    const uint32_t block = first / kUnitsPerBlock;
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t r = 0; r < kIntegerRows; ++r) {
        const int32_t exact = static_cast<int32_t>(sum[t][r] + static_cast<uint32_t>(inputs[t].correction[block]));
        y[t][r] = multiply_add(static_cast<float>(exact), inputs[t].scale[block], y[t][r]);
      }
    }
  }
}

void dot_scaled(const IntegerRowBlock& weights, const IntegerInputs* inputs, uint32_t tokens,
                float (*y)[kIntegerRows]) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t r = 0; r < kIntegerRows; ++r) {
      float total = 0;
      for (uint32_t first = 0; first < weights.num_units; first += kUnitsPerBlock) {
        float block = 0;
        for (uint32_t u = first; u < weights.num_units && u < first + kUnitsPerBlock; ++u) {
          const uint8_t* row = weights.units + size_t{u} * kUnitWeights + size_t{4} * r;
          uint32_t sum = static_cast<uint32_t>(inputs[t].correction[u]);
          for (uint32_t c = 0; c < kUnitCols; ++c)
            sum += static_cast<uint32_t>(int32_t{row[c / 4 * 64 + c % 4]} * inputs[t].value[u * kUnitCols + c]);
          const float exact = static_cast<float>(static_cast<int32_t>(sum));
          block = multiply_add(exact, bf16_to_f32(weights.scales[u * kIntegerRows + r]), block);
        }
        total = multiply_add(block, inputs[t].scale[first / kUnitsPerBlock], total);
      }
      y[t][r] = total;
    }
  }
}

}  // namespace

const IntegerKernels kScalarIntegers = {false, dot<false>, dot<true>, dot_scaled};

const IntegerKernels& integer_kernels(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512 && detect_vnni()) return kVnniIntegers;
  if (level >= CpuLevel::kAvx2) return kAvx2Integers;
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeon) return kNeonIntegers;
#endif
  static_cast<void>(level);
  return kScalarIntegers;
}

}  // namespace nwc
