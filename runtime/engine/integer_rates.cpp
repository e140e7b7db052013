#include "runtime/engine/integer_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "runtime/engine/buffer.h"
#include "runtime/engine/integer_product.h"

namespace nwc {
namespace {

constexpr uint32_t kCols = 2048;
constexpr uint32_t kPasses = 3;
constexpr size_t kNumBits = std::size(kIntegerBits);

/// Units of so many bits that take `bytes`.
IntegerForm form_of(uint8_t bits, uint64_t bytes) {
  IntegerForm form;
  form.cols = kCols;
  form.bits.assign(kCols / kUnitCols, bits);
  form.rows = kChunk * std::max<uint64_t>(1, bytes / (kCols / kUnitCols * unit_bytes(bits)));
  form.place_parts();
  return form;
}

IntegerRates measure(CpuLevel level, Runner& runner, uint64_t bytes) {
  IntegerForm forms[kNumBits];
  uint64_t most_bytes = 0, most_rows = 0;
  for (size_t b = 0; b < kNumBits; ++b) {
    forms[b] = form_of(kIntegerBits[b], bytes);
    most_bytes = std::max(most_bytes, forms[b].bytes);
    most_rows = std::max(most_rows, forms[b].rows);
  }
  HostMemory memory;
  Buffer weights, vectors;
  const uint64_t scratch = integer_scratch(kCols, 1);
  if (!weights.allocate(most_bytes, &memory, "weights to measure with").ok() ||
      !vectors.allocate(scratch + (most_rows + kCols) * sizeof(float), &memory, "vectors to measure with").ok())
    return {};
  float* const x = reinterpret_cast<float*>(vectors.data() + scratch);
  std::fill_n(x, kCols, 1.0f);
  std::memset(weights.data(), 0x41, weights.size());  // a number as an integer and as a float
  double best[kNumBits] = {};
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    for (size_t b = 0; b < kNumBits; ++b) {
      const IntegerForm& form = forms[b];
      std::memset(weights.data() + form.begin_at, 0, form.outliers_at - form.begin_at);  // there are no outliers
      const IntegerMatrix matrix{&form, weights.data(), x + kCols};
      const auto start = std::chrono::steady_clock::now();
      multiply_integers(level, runner, {&matrix, 1}, 1, x, kCols, form.rows, vectors.data());
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::memset(weights.data() + form.begin_at, 0x41, form.outliers_at - form.begin_at);
      best[b] = std::max(best[b], static_cast<double>(form.rows * form.cols) / std::max(seconds, 1e-9));
    }
  }
  IntegerRates rates;
  std::copy(std::begin(best), std::end(best), rates.per_second);
  return rates;
}

}  // namespace

IntegerRates measured_integer_rates(CpuLevel level, Runner& runner, uint64_t bytes) {
  struct Known {
    CpuLevel level;
    uint32_t workers;
    uint64_t bytes;
    IntegerRates rates;
  };
  static std::mutex mutex;
  static Known known[8];  // the latest ones
  static size_t next = 0;
  bytes = std::min(bytes, kMostRateBytes);
  const std::lock_guard lock(mutex);
  for (const Known& k : known) {
    if (k.rates.measured() && k.level == level && k.workers == runner.num_workers() && k.bytes == bytes) return k.rates;
  }
  const IntegerRates rates = measure(level, runner, bytes);
  known[next++ % std::size(known)] = {level, runner.num_workers(), bytes, rates};
  return rates;
}

double product_seconds(const IntegerForm& form, const IntegerRates& rates) {
  double seconds_per_row = 0;
  for (const uint8_t bits : form.bits) {
    const size_t b = static_cast<size_t>(std::find(std::begin(kIntegerBits), std::end(kIntegerBits), bits) -
                                         std::begin(kIntegerBits));
    seconds_per_row += kUnitCols / rates.per_second[b];
  }
  return static_cast<double>(form.row_blocks() * kChunk) * seconds_per_row +
         form.expected_outliers * kOutlierBytes / rates.per_second[kNumBits - 1];
}

}  // namespace nwc
