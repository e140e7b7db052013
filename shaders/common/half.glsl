// f32 to f16 and bf16, as bits, round to nearest even; must match f32_to_f16 and f32_to_bf16 (runtime/base/half.h) bit
// for bit. Integer arithmetic only, so that no driver's float controls (flushed subnormals, rounding) matter.

uint to_f16(uint bits) {
  const uint sign_bit = (bits >> 16) & 0x8000u;
  const uint magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign_bit | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign_bit | 0x7c00u;
  if (magnitude >= 0x38800000u) {
    return sign_bit | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13);
  }
  // Subnormal: the mantissa in units of 2^-24; below 2^-25 nothing is left.
  const uint shift = 126u - (magnitude >> 23);
  if (shift > 24u) return sign_bit;
  const uint mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  return sign_bit | ((mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift);
}

uint to_bf16(uint bits) {
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
