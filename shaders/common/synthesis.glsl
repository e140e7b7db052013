// What both synthesis kernels have in common: bindings, dequantization, scaling, the write of a weight.

layout(std430, set = 0, binding = 0) readonly buffer Network { float network[]; };
layout(std430, set = 0, binding = 1) readonly buffer Window { uint window_data[]; };
layout(std430, set = 0, binding = 2) readonly buffer Values { uint values[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Weights { float weights[]; };
layout(push_constant) uniform Parameters {
  uint level_at;      // index in window_data of the columns' levels, four to a word
  uint scale_at;      // of the columns' scales
  uint row_scale_at;  // of the row scales of the rows written, or kNoRowScale
  uint width;         // columns of the window
  uint first_block;   // first row block of the window to synthesise
  uint num_chunks;    // row blocks times width
  uint rows;          // rows to write
  uint step_at;       // index in network of (step, shrink) of each level
  uint matrices_at;   // index in network of what follows them
  uint num_levels;
} pc;

uint column_level(uint column) {
  return (window_data[pc.level_at + (column >> 2)] >> ((column & 3u) * 8u)) & 255u;
}

// z of one channel of a chunk (doc/format.md, section 5.5).
float dequantize(uint block, uint column, uint level, uint channel) {
  const uint word = values[((pc.first_block + block) * pc.width + column) * (kChunk / 2u) + (channel >> 1)];
  const int k = (channel & 1u) == 0 ? int(word << 16) >> 16 : int(word) >> 16;
  const float step_size = network[pc.step_at + 2u * level];
  const float shrink = network[pc.step_at + 2u * level + 1u];
  return (float(k) - float(sign(k)) * shrink) * step_size;
}

void store_weight(uint block, uint column, uint channel, float y, float scale) {
  const uint row = block * kChunk + channel;
  if (row >= pc.rows) return;
  float weight = 0.0;
  if (scale != 0.0) {
    weight = y * scale;
    if (pc.row_scale_at != kNoRowScale) {
      const float row_scale = uintBitsToFloat(window_data[pc.row_scale_at + row]);
      weight = row_scale != 0.0 ? weight * row_scale : 0.0;
    }
  }
  weights[row * pc.width + column] = weight;
}
