#include "runtime/format/dtype.h"

#include <bit>
#include <limits>

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

namespace nwc {
namespace {

// An 8-bit float with a sign. The FNUZ types have one NaN, 0x80, and no infinity; E4M3 has NaN in the place of its
// largest numbers and no infinity; E5M2 is the upper half of an F16.
// source: OCP 8-bit floating point, revision 1.0; FNUZ: arXiv:2206.02915
float load_f8(uint32_t bits, uint32_t mantissa_bits, uint32_t bias, bool fnuz) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  if (fnuz ? bits == 0x80 : mantissa_bits == 3 && (bits & 0x7f) == 0x7f) return kNan;
  const uint32_t magnitude = bits & 0x7f;
  const uint32_t mantissa = magnitude & ((1u << mantissa_bits) - 1);
  const uint32_t exponent = magnitude >> mantissa_bits;
  // A number without a leading one is a multiple of the least power of two that the type has.
  const auto least = std::bit_cast<float>((128 - bias - mantissa_bits) << 23);
  const float value = exponent == 0
                          ? static_cast<float>(mantissa) * least
                          : std::bit_cast<float>((exponent + 127 - bias) << 23 | mantissa << (23 - mantissa_bits));
  return (bits & 0x80) != 0 ? -value : value;
}

float load_e8m0(uint8_t bits) {
  if (bits == 0xff) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(bits == 0 ? 0x400000u : uint32_t{bits} << 23);  // 2^-127 is subnormal
}

}  // namespace

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return "F32";
    case Dtype::kF16: return "F16";
    case Dtype::kBf16: return "BF16";
    case Dtype::kF64: return "F64";
    case Dtype::kI8: return "I8";
    case Dtype::kU8: return "U8";
    case Dtype::kI16: return "I16";
    case Dtype::kU16: return "U16";
    case Dtype::kI32: return "I32";
    case Dtype::kU32: return "U32";
    case Dtype::kI64: return "I64";
    case Dtype::kU64: return "U64";
    case Dtype::kBool: return "BOOL";
    case Dtype::kF8E4M3: return "F8_E4M3";
    case Dtype::kF8E5M2: return "F8_E5M2";
    case Dtype::kF8E8M0: return "F8_E8M0";
    case Dtype::kF8E4M3Fnuz: return "F8_E4M3FNUZ";
    case Dtype::kF8E5M2Fnuz: return "F8_E5M2FNUZ";
    case Dtype::kF4: return "F4";
    case Dtype::kF6E2M3: return "F6_E2M3";
    case Dtype::kF6E3M2: return "F6_E3M2";
    case Dtype::kC64: return "C64";
  }
  return "?";
}

float load_float(Dtype dtype, const uint8_t* p) {
  switch (dtype) {
    case Dtype::kF16: return f16_to_f32(load_le<uint16_t>(p));
    case Dtype::kBf16: return bf16_to_f32(load_le<uint16_t>(p));
    case Dtype::kF64: return static_cast<float>(load_le<double>(p));
    case Dtype::kF8E4M3: return load_f8(*p, 3, 7, false);
    case Dtype::kF8E5M2: return f16_to_f32(static_cast<uint16_t>(*p << 8));
    case Dtype::kF8E8M0: return load_e8m0(*p);
    case Dtype::kF8E4M3Fnuz: return load_f8(*p, 3, 8, true);
    case Dtype::kF8E5M2Fnuz: return load_f8(*p, 2, 16, true);
    default: return load_le<float>(p);
  }
}

}  // namespace nwc
