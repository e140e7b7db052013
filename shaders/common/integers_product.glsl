// Products with weights that are units of integers: what these kernels share. Must match multiply_integers
// (runtime/engine/integer_product.h) within rounding.
// Bindings: 0 units, 3 everything behind them.
#include "integers.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Units { uvec4 wide_units[]; };
layout(std430, set = 0, binding = 3) readonly buffer Rest { uint rest[]; };
layout(push_constant) uniform Parameters { IntegersPush pc; };

float rest_number(uint at) { return uintBitsToFloat(rest[at]); }

// Where there are block scales: those of rows 4 four .. 4 four + 3 of a unit, in a row block at wide_units[at].
vec4 load_scales(uint at, uint unit, uint four) {
  const uvec4 wide = wide_units[at + pc.num_units * 32u + 2u * unit + (four >> 1)];
  const uvec2 two = (four & 1u) == 0u ? wide.xy : wide.zw;
  return uintBitsToFloat(uvec4(two.x << 16, two.x & 0xffff0000u, two.y << 16, two.y & 0xffff0000u));
}

// Words of rows 4 four .. 4 four + 3 of a unit that begins at wide_units[at]: of one group of four columns, and of groups
// 2 pair and 2 pair + 1, which are read together.
uvec4 load_words(uint at, uint bits, uint group, uint four) {
  if (bits == 8u) return wide_units[at + 4u * group + four];
  const uvec4 low = wide_units[at + 4u * (group >> 1) + four];
  const uvec4 high = bits == 4u ? uvec4(0u) : wide_units[at + 4u * upper_block(bits, group) + four];
  return join_words(bits, group, low, high);
}
void load_pair(uint at, uint bits, uint pair, uint four, out uvec4 even, out uvec4 odd) {
  if (bits == 8u) {
    even = wide_units[at + 8u * pair + four];
    odd = wide_units[at + 8u * pair + 4u + four];
  } else {
    const uvec4 low = wide_units[at + 4u * pair + four];
    const uvec4 high = bits == 4u ? uvec4(0u) : wide_units[at + 4u * upper_block(bits, 2u * pair) + four];
    even = join_words(bits, 2u * pair, low, high);
    odd = join_words(bits, 2u * pair + 1u, low, high);
  }
}
