// Products of many tokens: y[t][r] = sum_j x[t][j] W[r][j] in tiles of 32 tokens by 64 rows.
// Bindings: 1 x f32, 2 y f32. Workgroup: 128, 4 tokens by 4 rows an invocation. groups: rows / 64, tokens / 32.
// The including kernel declares pc, whose members rows, cols, x_at, x_stride, y_at, y_stride, num_tokens and add are those
// of MatmulPush, and kDepth before it, and defines load_weights() and finish() after it.

layout(local_size_x = 128) in;
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };

const uint kTileTokens = 32u, kTileRows = 64u;
shared float x_tile[kDepth * (kTileTokens + 1u)];  // [depth][token]; a column of padding against bank conflicts
shared float w_tile[kDepth * (kTileRows + 1u)];    // [depth][row]
float sum[16];                                     // [token][row] of this invocation

// Columns depth .. depth + kDepth - 1 of rows row0 .. row0 + 63 to w_tile; columns behind the last are 0.
void load_weights(uint row0, uint depth);
// Changes the sums before they are written. row, token: the first of the invocation's.
void finish(uint row, uint token);

uint input_row(uint token) { return pc.x_at + min(token, pc.num_tokens - 1u) * pc.x_stride; }

void multiply_tile() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint row0 = gl_WorkGroupID.x * kTileRows, token0 = gl_WorkGroupID.y * kTileTokens;
  const uint own_row = (i0 % 16u) * 4u, own_token = (i0 / 16u) * 4u;
  for (uint i = 0; i < 16u; ++i) sum[i] = 0.0;
  for (uint depth = 0; depth < pc.cols; depth += kDepth) {
    load_weights(row0, depth);
    for (uint i = i0; i < kTileTokens * kDepth; i += 128u) {
      const uint t = i / kDepth, j = i % kDepth;
      x_tile[j * (kTileTokens + 1u) + t] = depth + j < pc.cols ? x[input_row(token0 + t) + depth + j] : 0.0;
    }
    barrier();
    for (uint j = 0; j < kDepth; ++j) {
      float w[4], v[4];
      for (uint i = 0; i < 4u; ++i) w[i] = w_tile[j * (kTileRows + 1u) + own_row + i];
      for (uint i = 0; i < 4u; ++i) v[i] = x_tile[j * (kTileTokens + 1u) + own_token + i];
      for (uint t = 0; t < 4u; ++t) {
        for (uint r = 0; r < 4u; ++r) sum[t * 4u + r] += v[t] * w[r];
      }
    }
    barrier();
  }
  finish(row0 + own_row, token0 + own_token);
  for (uint t = 0; t < 4u; ++t) {
    for (uint r = 0; r < 4u; ++r) {
      const uint token = token0 + own_token + t, row = row0 + own_row + r;
      if (token >= pc.num_tokens || row >= pc.rows) continue;
      const uint at = pc.y_at + token * pc.y_stride + row;
      y[at] = pc.add != 0 ? y[at] + sum[t * 4u + r] : sum[t * 4u + r];
    }
  }
}
