// Products of many tokens: y[t][r] = sum_j x[t][j] W[r][j] in tiles of 32 tokens by 64 rows: sums and results.
// Bindings: 1 x f32, 2 y f32. Workgroup: 128, 4 tokens by 4 rows an invocation. groups: rows / 64, tokens / 32.
// The including kernel declares pc, whose members rows, cols, x_at, x_stride, y_at, y_stride, num_tokens and add are those
// of MatmulPush.

layout(local_size_x = 128) in;
layout(std430, set = 0, binding = 1) readonly buffer X { float x[]; };
layout(std430, set = 0, binding = 2) buffer Y { float y[]; };

const uint kTileTokens = 32u, kTileRows = 64u;
float sum[16];  // [token][row] of this invocation

uint input_row(uint token) { return pc.x_at + min(token, pc.num_tokens - 1u) * pc.x_stride; }
uint first_row() { return gl_WorkGroupID.x * kTileRows; }
uint first_token() { return gl_WorkGroupID.y * kTileTokens; }
// The invocation's own, of the tile's.
uint own_row() { return (gl_LocalInvocationIndex % 16u) * 4u; }
uint own_token() { return (gl_LocalInvocationIndex / 16u) * 4u; }

void write_sums() {
  for (uint t = 0; t < 4u; ++t) {
    for (uint r = 0; r < 4u; ++r) {
      const uint token = first_token() + own_token() + t, row = first_row() + own_row() + r;
      if (token >= pc.num_tokens || row >= pc.rows) continue;
      const uint at = pc.y_at + token * pc.y_stride + row;
      y[at] = pc.add != 0 ? y[at] + sum[t * 4u + r] : sum[t * 4u + r];
    }
  }
}
