// Weights as the small integers of a unit, 16 rows of 32 columns: must match unpack_unit (runtime/codec/integer_decode.h).
// A word has four columns of a row. What the tensor has beside its units lies in one binding, `rest`, which the including
// kernel declares.

const uint kUnitCols = 32u;

uint unit_bits(uint entry) { return entry & 15u; }
uint unit_words(uint entry) { return (entry >> 4) * 16u; }
uint unit_wide(uint entry) { return (entry >> 4) * 4u; }
uint unit_bias(uint entry) { return 1u << (unit_bits(entry) - 1u); }

// With less than 8 bits: of 64 bytes of the unit, the number of those that hold a group's bits above the lower four, and
// the four integers of words of these and of the words with the lower bits.
uint upper_block(uint bits, uint group) { return bits == 6u ? 4u + (group >> 2) : 4u; }
uvec4 join_words(uint bits, uint group, uvec4 low, uvec4 high) {
  const uvec4 words = (low >> (4u * (group & 1u))) & 0x0f0f0f0fu;
  if (bits == 5u) return words | (((high >> group) & 0x01010101u) << 4);
  if (bits == 6u) return words | (((high >> (2u * (group & 3u))) & 0x03030303u) << 4);
  return words;
}

// An outlier: integers_pack.comp writes what runtime/codec/integer_form.h describes.
uint outlier_column(uint outlier) { return outlier & 0xffffu; }
uint outlier_row(uint outlier) { return (outlier >> 16) & 15u; }
int outlier_rest(uint outlier) { return int(outlier) >> 20; }

// The four integers of a word as numbers. With 2^23 added they are a float's lower bits, which no conversion is needed for:
// those are slow on some devices.
vec4 word_numbers(uint word, uint bias) {
  const uvec4 bits = uvec4(word, word >> 8, word >> 16, word >> 24) & 255u;
  return uintBitsToFloat(bits | 0x4b000000u) - (8388608.0 + float(bias));
}
