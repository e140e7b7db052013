// The kernels that a window goes through, and the data that they leave in memory on the way.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "runtime/format/dtype.h"

namespace nwc {

/// Uses of the values that the rANS kernel decodes (shaders/common/constants.glsl).
enum class Consumer : uint32_t { kNothing = 0, kValues = 1, kF32 = 2, kF16 = 3, kBf16 = 4, kProduct = 5 };
constexpr bool is_half(Consumer consumer) { return consumer == Consumer::kF16 || consumer == Consumer::kBf16; }
constexpr Consumer consumer_of(Dtype dtype) {
  return dtype == Dtype::kF32 ? Consumer::kF32 : dtype == Dtype::kF16 ? Consumer::kF16 : Consumer::kBf16;
}

/// A rANS kernel and how it is specialised.
struct RansVariant {
  bool ballot = false;
  bool storage16 = false;      ///< halves are written one by one instead of in pairs
  uint32_t shared_tables = 0;  ///< tables copied to shared memory; 0: they are read from the buffer
  Consumer consumer = Consumer::kValues;
  uint32_t batch = 1;  ///< vectors of a product: 1, 2, 4 or 8
  // NOLINTNEXTLINE(modernize-use-nullptr): the check takes the 0 that <=> is compared with for a pointer.
  auto operator<=>(const RansVariant&) const = default;
  /// "ballot to f16, 12 tables in shared memory".
  std::string name() const;
};

/// The kernels of a window. The rANS kernel alone gives values, and a linear codec's weights, too; a network takes the
/// values on; where two halves of a word are in different rows, f32 is converted at the end.
struct WindowPath {
  Consumer rans = Consumer::kValues;
  bool network = false;
  bool convert = false;
  Dtype dtype = Dtype::kF32;  ///< of the weights
  bool values_only = false;   ///< the result is the values
  bool direct = false;        ///< the last kernel writes to the result's place, instead of to scratch memory

  // The data that lies in scratch memory.
  bool has_values() const { return rans == Consumer::kValues && !(values_only && direct); }
  bool has_floats() const { return !values_only && (convert || (dtype == Dtype::kF32 && !direct)); }
  bool has_halves() const { return !values_only && dtype != Dtype::kF32 && (convert || !direct); }
  uint32_t scratch_bytes_per_weight() const {
    return (has_values() ? 2 : 0) + (has_floats() ? 4 : 0) + (has_halves() ? 2 : 0);
  }
  uint32_t result_bytes_per_weight() const { return values_only ? 2 : dtype_size(dtype); }
};

}  // namespace nwc
