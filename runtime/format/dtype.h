// Element types of tensors, as numbered in the container (doc/format.md, section 6).
#pragma once

#include <cstddef>
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
  // Since version 1.2. E and M: bits of exponent and mantissa.
  kF8E4M3 = 13,
  kF8E5M2 = 14,
  kF8E8M0 = 15,  ///< a power of two, without a sign
  kF8E4M3Fnuz = 16,
  kF8E5M2Fnuz = 17,
  kF4 = 18,  ///< E2M1, two in a byte
  kF6E2M3 = 19,
  kF6E3M2 = 20,
  kC64 = 21,  ///< two F32: the real part, then the imaginary one
};
constexpr uint8_t kNumDtypes = 22;

/// Bits per element; 0 for a number outside the enum. Types of less than a byte are packed without gaps.
constexpr uint32_t dtype_bits(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
    case Dtype::kI64:
    case Dtype::kU64:
    case Dtype::kC64: return 64;
    case Dtype::kF32:
    case Dtype::kI32:
    case Dtype::kU32: return 32;
    case Dtype::kF16:
    case Dtype::kBf16:
    case Dtype::kI16:
    case Dtype::kU16: return 16;
    case Dtype::kI8:
    case Dtype::kU8:
    case Dtype::kBool:
    case Dtype::kF8E4M3:
    case Dtype::kF8E5M2:
    case Dtype::kF8E8M0:
    case Dtype::kF8E4M3Fnuz:
    case Dtype::kF8E5M2Fnuz: return 8;
    case Dtype::kF6E2M3:
    case Dtype::kF6E3M2: return 6;
    case Dtype::kF4: return 4;
  }
  return 0;
}
/// Bytes per element; 0 for a type of less than a byte, and for a number outside the enum.
constexpr uint32_t dtype_size(Dtype dtype) { return dtype_bits(dtype) / 8; }
/// Bytes of that many elements, which must fill whole bytes. Does not overflow up to kMaxTensorElements.
constexpr uint64_t dtype_bytes(Dtype dtype, uint64_t elements) { return elements * dtype_bits(dtype) / 8; }
/// Can decoders convert it to F32? Float types of less than a byte, complex numbers and integers come as their bytes.
constexpr bool dtype_is_float(Dtype dtype) {
  return dtype <= Dtype::kF64 || (dtype >= Dtype::kF8E4M3 && dtype <= Dtype::kF8E5M2Fnuz);
}
/// The name of the type in safetensors: "F32", "BF16", ...
const char* dtype_name(Dtype dtype);

/// The number at `p`, of a type for which dtype_is_float is true. F64 is rounded, all others are exact.
float load_float(Dtype dtype, const uint8_t* p);

}  // namespace nwc
