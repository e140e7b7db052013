// Four weights times four inputs as one dot product of bytes with signs, added up in 32 bits without rounding. An input
// is an integer of 16 bits with one scale for kInputBlock columns, in two digits of 8 bits, as on the CPU: quantize() in
// runtime/engine/integer_product.cpp. GLSL of this age has no name for the instruction.
#extension GL_EXT_spirv_intrinsics : require

// OpSDotKHR of words of four bytes; what must be 0 says so. Capabilities DotProductKHR, DotProductInput4x8BitPackedKHR.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int packed_dot(uint a, uint b, spirv_literal int packed_format);

const uint kInputBlock = 128u;
const float kLargestInput = 32639.0;  // 127 * 256 + 127
const uint kUnitsPerBlock = kInputBlock / kUnitCols;
const uint kVectorsPerBlock = kInputBlock / 4u;

// The integers of a word without their bias, each a byte with a sign; and the signs of those: -1, 0 and 1.
uvec4 signed_words(uvec4 words, uint bits, uint bias) {
  const uint top = 0x80808080u;
  return (bits == 8u ? words : (words | top) - bias * 0x01010101u) ^ top;
}
uvec4 sign_words(uvec4 words) {
  const uvec4 negative = (words >> 7) & 0x01010101u;
  const uvec4 other_than_0 = (((words & 0x7f7f7f7fu) + 0x7f7f7f7fu) | words) >> 7 & 0x01010101u;
  return other_than_0 | negative * 255u;
}

// The bits of an absolute value are in the order of the values.
uint largest_bits(vec4 v) {
  const uvec4 bits = floatBitsToUint(v) & 0x7fffffffu;
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// What an integer of a block stands for whose largest input has these bits. Infinite inputs and those that are no number
// have no integers: so is the result.
bool is_finite(uint most) { return most < 0x7f800000u; }
float input_step(uint most) { return uintBitsToFloat(most) / kLargestInput; }
bool is_usable(uint most) { return is_finite(most) && input_step(most) >= 1e-37; }
float input_scale(uint most) {
  return is_finite(most) ? (is_usable(most) ? input_step(most) : 0.0) : uintBitsToFloat(0x7fc00000u);
}

uint pack_bytes(ivec4 v) {
  const uvec4 bytes = uvec4(v) & 255u;
  return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}
// Upper and lower digits.
uvec2 to_digits(vec4 v, uint most) {
  const float inverse = is_usable(most) ? 1.0 / input_step(most) : 0.0;
  ivec4 q = ivec4(0);
  if (inverse != 0.0) q = ivec4(clamp(roundEven(v * inverse), vec4(-kLargestInput), vec4(kLargestInput)));
  const ivec4 low = (q << 24) >> 24;
  return uvec2(pack_bytes((q - low) >> 8), pack_bytes(low));
}

// Sums of upper and lower digits, for four rows.
struct DigitSums { ivec4 high, low; };
void add_dots(inout DigitSums sums, uvec4 words, uvec2 digits) {
  [[unroll]] for (uint r = 0u; r < 4u; ++r) {
    sums.high[r] += packed_dot(words[r], digits.x, 0);
    sums.low[r] += packed_dot(words[r], digits.y, 0);
  }
}
ivec4 join_digits(DigitSums sums) { return sums.high * 256 + sums.low; }
