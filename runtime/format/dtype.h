// Element types of raw tensors, as numbered in the container (doc/format.md, section 6).
#pragma once

#include <cstdint>

namespace nwc {

enum class Dtype : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kBf16 = 2,
  kF64 = 3,
  kI8 = 4,
  kU8 = 5,
  kI16 = 6,
  kU16 = 7,
  kI32 = 8,
  kU32 = 9,
  kI64 = 10,
  kU64 = 11,
  kBool = 12,
};
constexpr uint8_t kNumDtypes = 13;

/// Bytes per element; 0 for a number outside the enum.
constexpr uint32_t dtype_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64: case Dtype::kI64: case Dtype::kU64: return 8;
    case Dtype::kF32: case Dtype::kI32: case Dtype::kU32: return 4;
    case Dtype::kF16: case Dtype::kBf16: case Dtype::kI16: case Dtype::kU16: return 2;
    case Dtype::kI8: case Dtype::kU8: case Dtype::kBool: return 1;
  }
  return 0;
}
constexpr bool dtype_is_float(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16 || dtype == Dtype::kF64;
}
/// As safetensors spells it: "F32", "BF16", ...
const char* dtype_name(Dtype dtype);

}  // namespace nwc
