// f32 to f16 and bf16, as bits, round to nearest even; must match f32_to_f16 and f32_to_bf16 (runtime/base/half.h) bit
// for bit. Integer arithmetic only, so that no driver's float controls (flushed subnormals, rounding) matter.

// Without branches: neighbouring weights take different paths, and a group of invocations would walk all of them.

uint to_f16(uint bits) {
  const uint magnitude = bits & 0x7fffffffu;
  const uint normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Subnormal: the mantissa in units of 2^-24; a shift of 25 leaves nothing.
  const uint shift = clamp(126u - min(magnitude >> 23, 126u), 1u, 25u);
  const uint mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint subnormal = (mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift;
  const uint finite = mix(subnormal, min(normal, 0x7c00u), magnitude >= 0x38800000u);
  return ((bits >> 16) & 0x8000u) | mix(finite, 0x7e00u, magnitude > 0x7f800000u);
}

uint to_bf16(uint bits) {
  const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return mix(rounded, (bits >> 16) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}
