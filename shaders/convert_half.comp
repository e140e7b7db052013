#version 450
// f32 to f16 or bf16, two to a word, round to nearest even; must match f32_to_f16 and f32_to_bf16 (runtime/base/half.h)
// bit for bit. Integer arithmetic only, so that no driver's float controls (flushed subnormals, rounding) matter.
// Bindings: 2 f32 (as bits), 3 halves. Workgroup: 64, one output word an invocation.
layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 2) readonly buffer Source { uint source[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Halves { uint halves[]; };
layout(push_constant) uniform Parameters {
  uint count;  // of numbers; an odd one leaves the upper half of the last word zero
  uint bf16;
} pc;

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

uint convert(uint index) {
  if (index >= pc.count) return 0u;
  const uint bits = source[index];
  return pc.bf16 != 0 ? to_bf16(bits) : to_f16(bits);
}

void main() {
  const uint word = gl_GlobalInvocationID.x;
  if (word * 2u >= pc.count) return;
  halves[word] = convert(2u * word) | (convert(2u * word + 1u) << 16);
}
