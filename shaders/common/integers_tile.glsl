// Products of many tokens with integers, in the tiles of matmul_sums.glsl: which weights an invocation loads, and what is
// left to do with the sums.

// The tile has four row blocks; of each, an invocation takes one of a unit's eight groups of columns and four rows.
struct TilePart {
  uint group, four;
  uint own_row;    // of the tile: the first of the four
  uint weight_at;  // of the row block
};
TilePart tile_part(uint row0) {
  const uint self = gl_LocalInvocationIndex;
  const uint num_blocks = (pc.rows + kChunk - 1u) / kChunk, own = self >> 5;
  TilePart part;
  part.four = self & 3u;
  part.group = (self >> 2) & 7u;
  part.own_row = own * kChunk + 4u * part.four;
  part.weight_at = pc.weight_at + min(row0 / kChunk + own, num_blocks - 1u) * pc.block_wide;
  return part;
}

// Adds outliers, multiplies by the scales of rows.
void finish(uint row, uint token) {
  const uint block = row / kChunk;
  if (block * kChunk >= pc.rows) return;
  const uint end = rest[pc.ranges_at + 2u * block + 1u];
  for (uint i = rest[pc.ranges_at + 2u * block]; i < end; ++i) {
    const uint outlier = rest[pc.outliers_at + i];
    const uint r = outlier_row(outlier) - row % kChunk;
    if (r >= 4u) continue;
    const uint column = outlier_column(outlier);
    const float w = rest_number(pc.factor_at + column) * float(outlier_rest(outlier));
    [[unroll]] for (uint t = 0u; t < 4u; ++t) {
      const float more = w * x[input_row(token + t) + column];
      [[unroll]] for (uint k = 0u; k < 4u; ++k) sum[4u * t + k] += k == r ? more : 0.0;
    }
  }
  [[unroll]] for (uint k = 0u; k < 4u; ++k) {
    const float scale = row + k < pc.rows ? rest_number(pc.row_scale_at + row + k) : 0.0;
    [[unroll]] for (uint t = 0u; t < 4u; ++t) sum[4u * t + k] *= scale;
  }
}
