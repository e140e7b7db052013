// What synthesis kernels have in common: bindings, dequantization, scaling, where a weight is written.

layout(std430, set = 0, binding = 0) readonly buffer Network { float network[]; };
layout(std430, set = 0, binding = 1) readonly buffer Window { uint window_data[]; };
layout(std430, set = 0, binding = 2) readonly buffer Values { uint values[]; };
layout(std430, set = 0, binding = 3) writeonly buffer Floats { float weights[]; };
layout(std430, set = 0, binding = 3) writeonly buffer HalfPairs { uint half_pairs[]; };
layout(push_constant) uniform Parameters {
  uint level_at;      // index in window_data of the columns' levels, four to a word
  uint scale_at;      // of the columns' scales
  uint row_scale_at;  // of the rows' scales, or kNoRowScale
  uint width;         // columns of the window
  uint first_block;   // first row block of the window to synthesise
  uint num_chunks;    // row blocks times width
  uint row_begin;     // weights are written of the window's rows [row_begin, row_end)
  uint row_end;
  uint out_at;      // element of the output that row row_begin begins with; even for halves, as is the width then
  uint out_stride;  // elements from row to row
  uint num_levels;
} pc;

uint column_level(uint column) {
  return (window_data[pc.level_at + (column >> 2)] >> ((column & 3u) * 8u)) & 255u;
}

// z of one channel of a chunk (doc/format.md, section 5.5).
float dequantize(uint block, uint column, uint level, uint channel) {
  const uint word = values[((pc.first_block + block) * pc.width + column) * (kChunk / 2u) + (channel >> 1)];
  const int k = (channel & 1u) == 0 ? int(word << 16) >> 16 : int(word) >> 16;
  const float step_size = network[2u * level];
  const float shrink = network[2u * level + 1u];
  return (float(k) - float(sign(k)) * shrink) * step_size;
}

uint weight_row(uint block, uint channel) { return (pc.first_block + block) * kChunk + channel; }
bool is_wanted(uint row) { return row >= pc.row_begin && row < pc.row_end; }
uint out_index(uint row, uint column) { return pc.out_at + (row - pc.row_begin) * pc.out_stride + column; }

float apply_scales(float y, uint row, uint column) {
  const float scale = uintBitsToFloat(window_data[pc.scale_at + column]);
  if (scale == 0.0) return 0.0;
  if (pc.row_scale_at == kNoRowScale) return y * scale;
  const float row_scale = uintBitsToFloat(window_data[pc.row_scale_at + row]);
  return row_scale != 0.0 ? y * scale * row_scale : 0.0;
}
