// How fast products with integers are on this machine, and what that means for a model: what `auto` goes by
// (doc/architecture.md, "Integer weights").
#pragma once

#include <iterator>

#include "runtime/base/cpu_features.h"
#include "runtime/base/thread_pool.h"
#include "runtime/codec/integer_form.h"

namespace nwc {

/// Weights a second of products with one token, by kIntegerBits. 0: not measured.
struct IntegerRates {
  double per_second[std::size(kIntegerBits)] = {};
  bool measured() const { return per_second[0] > 0; }
};

/// Multiplies by made-up weights of each number of bits that take `bytes`, or kMostRateBytes if that is less, three
/// times each: what models of that size meet, also in the caches. Some 30 ms at the most, once a process for the same
/// level, number of workers and bytes. Not measured: there was no memory for it.
IntegerRates measured_integer_rates(CpuLevel level, Runner& runner, uint64_t bytes);
inline constexpr uint64_t kMostRateBytes = 48u << 20;

/// Seconds that a product of one token with a matrix takes by these rates, which are measured.
double product_seconds(const IntegerForm& form, const IntegerRates& rates);

}  // namespace nwc
