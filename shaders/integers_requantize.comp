#version 450
// Weights of whole row blocks to units of 8-bit integers with block scales: must match requantize_rows
// (runtime/codec/integer_requantize.h) within the rounding of weights.
// Bindings: 0 weights f32 [rows][cols], 1 units, 2 everything behind them. Workgroup: 64, a row block; an invocation
// takes eight columns of a row of each unit.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/integers.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Weights { float weights[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Units { uint units[]; };
layout(std430, set = 0, binding = 2) buffer Rest { uint rest[]; };
layout(push_constant) uniform Parameters { RequantizePush pc; };

const uint kInfinity = 0x7f800000u, kNoNumber = 0x7fc0u;  // bits of f32 and of bf16
const uint kUnitWords = kUnitCols * kChunk / 4u;

shared uint largest[4u * kChunk];  // bits of absolute values, of [part][row]
shared uint scales[kChunk];

uint block;  // of the weights

// Before the scales of row and column.
float weight(uint column, uint row) {
  const uint of_tensor = (pc.first_block + block) * kChunk + row;
  if (column >= pc.cols || of_tensor >= pc.rows) return 0.0;
  const float factor = uintBitsToFloat(rest[pc.factor_at + column]);
  const float row_scale = uintBitsToFloat(rest[pc.row_scale_at + of_tensor]);
  if (factor == 0.0 || row_scale == 0.0) return 0.0;
  return weights[(block * kChunk + row) * pc.cols + column] / factor / row_scale;
}

// Bits of bf16, rounded up.
uint scale_of(uint most) {
  return most >= kInfinity ? kNoNumber : (floatBitsToUint(uintBitsToFloat(most) / 127.0) + 0xffffu) >> 16;
}

void main() {
  block = gl_WorkGroupID.x;
  const uint self = gl_LocalInvocationIndex, row = self % kChunk, part = self / kChunk;
  const uint base = pc.weight_at + block * pc.block_words;
  [[dont_unroll]] for (uint unit = 0u; unit < pc.num_units; ++unit) {
    float v[8];
    uint most = 0u;
    [[unroll]] for (uint i = 0u; i < 8u; ++i) {
      v[i] = weight(unit * kUnitCols + 8u * part + i, row);
      most = max(most, floatBitsToUint(v[i]) & 0x7fffffffu);
    }
    largest[self] = most;
    barrier();
    for (uint p = 0u; p < 4u; ++p) most = max(most, largest[p * kChunk + row]);
    const uint scale = scale_of(most);
    if (part == 0u) scales[row] = scale;
    const float size = uintBitsToFloat(scale << 16);
    const bool usable = most < kInfinity && size > 0.0;
    [[unroll]] for (uint g = 0u; g < 2u; ++g) {
      uint word = 0u;
      [[unroll]] for (uint c = 0u; c < 4u; ++c) {
        const int q = usable ? int(clamp(roundEven(v[4u * g + c] / size), -127.0, 127.0)) : 0;
        word |= uint(q + 128) << (8u * c);
      }
      units[base + unit * kUnitWords + (2u * part + g) * kChunk + row] = word;
    }
    barrier();
    if (self < kChunk / 2u) {
      const uint to = base + pc.num_units * kUnitWords + unit * (kChunk / 2u) + self;
      units[to] = scales[2u * self] | (scales[2u * self + 1u] << 16);
    }
    barrier();
  }
  if (self == 0u) {
    const uint range = pc.ranges_at + 2u * (pc.first_block + block);
    rest[range] = rest[range + 1u] = 0u;
    atomicAdd(rest[pc.count_at + 2u], 1u);
  }
}
