// Products of many tokens (matmul_sums.glsl) with weights that become f32 in shared memory.
// The including kernel defines kDepth before it, and load_weights() and finish() after it.
#include "matmul_sums.glsl"

shared float x_tile[kDepth * (kTileTokens + 1u)];  // [depth][token]; a column of padding against bank conflicts
shared float w_tile[kDepth * (kTileRows + 1u)];    // [depth][row]

// Columns depth .. depth + kDepth - 1 of rows row0 .. row0 + 63 to w_tile; columns behind the last are 0.
void load_weights(uint row0, uint depth);
// Changes the sums before they are written. row, token: the first of the invocation's.
void finish(uint row, uint token);

void multiply_tile() {
  for (uint i = 0; i < 16u; ++i) sum[i] = 0.0;
  for (uint depth = 0; depth < pc.cols; depth += kDepth) {
    load_weights(first_row(), depth);
    for (uint i = gl_LocalInvocationIndex; i < kTileTokens * kDepth; i += 128u) {
      const uint t = i / kDepth, j = i % kDepth;
      x_tile[j * (kTileTokens + 1u) + t] = depth + j < pc.cols ? x[input_row(first_token() + t) + depth + j] : 0.0;
    }
    barrier();
    for (uint j = 0; j < kDepth; ++j) {
      float w[4], v[4];
      for (uint i = 0; i < 4u; ++i) w[i] = w_tile[j * (kTileRows + 1u) + own_row() + i];
      for (uint i = 0; i < 4u; ++i) v[i] = x_tile[j * (kTileTokens + 1u) + own_token() + i];
      for (uint t = 0; t < 4u; ++t) {
        for (uint r = 0; r < 4u; ++r) sum[t * 4u + r] += v[t] * w[r];
      }
    }
    barrier();
  }
  finish(first_row() + own_row(), first_token() + own_token());
  write_sums();
}
