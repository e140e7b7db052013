// Rows of decoded weights as matmul_few, matmul_many and embed_rows read them: f32, or two halves to a word.

const uint kWeightF32 = 0u;
const uint kWeightF16 = 1u;
const uint kWeightBf16 = 2u;

// Two neighbouring halves of a word.
vec2 unpack_halves(uint dtype, uint word) {
  if (dtype == kWeightF16) return unpackHalf2x16(word);
  return vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xffff0000u));
}
