#version 450
// Values of whole row blocks to units of integers, outliers apart: must match pack_unit and IntegerWriter
// (runtime/codec/integer_decode.cpp), but that outliers of different row blocks may lie in any order.
// Bindings: 0 values i16 [row block][column][16], 1 units, 2 everything behind them. Workgroup: 64, a row block.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common/constants.glsl"
#include "common/integers.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Values { uint values[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Units { uint units[]; };
layout(std430, set = 0, binding = 2) buffer Rest { uint rest[]; };
layout(push_constant) uniform Parameters { PackPush pc; };

const int kMostRest = 2047;
const uint kMaxUnits = 2048u;  // of 65536 columns

shared uint upper[8u * kChunk];  // of [group][row], the bits above the lower four
shared uint has_outliers[kMaxUnits / 32u];
shared uint counts[kUnitCols];
shared uint total, first;

uint block;  // of the values

// The integer of a column and a row of the row block. Columns behind the last have zeros.
int value(uint column, uint row) {
  if (column >= pc.cols) return 0;
  const uint word = values[(block * pc.cols + column) * (kChunk / 2u) + (row >> 1)];
  return (row & 1u) == 0u ? int(word << 16) >> 16 : int(word) >> 16;
}

// What is left of an integer beyond its unit's bits.
int rest_of(int q, int bias) { return q - clamp(q, -bias, bias - 1); }
uint outliers_of(int left) { return uint(abs(left) + kMostRest - 1) / uint(kMostRest); }
bool is_row(uint row) { return (pc.first_block + block) * kChunk + row < pc.rows; }

// Four columns from `column` on, with their bias.
uint pack_word(uint column, uint row, int bias, inout uint found) {
  uint word = 0u;
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    const int q = value(column + i, row);
    word |= uint(clamp(q, -bias, bias - 1) + bias) << (8u * i);
    if (is_row(row)) found += outliers_of(rest_of(q, bias));
  }
  return word;
}

void pack_units() {
  const uint row = gl_LocalInvocationIndex % kChunk, pair = gl_LocalInvocationIndex / kChunk;
  [[dont_unroll]] for (uint unit = 0u; unit < pc.num_units; ++unit) {
    const uint entry = rest[pc.units_at + unit];
    const uint bits = unit_bits(entry);
    const int bias = int(unit_bias(entry));
    const uint to = pc.weight_at + block * pc.block_words + unit_words(entry);
    uint found = 0u;
    const uint even = pack_word(unit * kUnitCols + 8u * pair, row, bias, found);
    const uint odd = pack_word(unit * kUnitCols + 8u * pair + 4u, row, bias, found);
    if (found != 0u) {
      atomicAdd(total, found);
      atomicOr(has_outliers[unit >> 5], 1u << (unit & 31u));
    }
    if (bits == 8u) {
      units[to + 32u * pair + row] = even;
      units[to + 32u * pair + kChunk + row] = odd;
      continue;
    }
    units[to + kChunk * pair + row] = (even & 0x0f0f0f0fu) | ((odd & 0x0f0f0f0fu) << 4);
    if (bits == 4u) continue;
    upper[2u * pair * kChunk + row] = (even >> 4) & 0x0f0f0f0fu;
    upper[(2u * pair + 1u) * kChunk + row] = (odd >> 4) & 0x0f0f0f0fu;
    barrier();
    const uint width = bits - 4u, groups = 8u / width;
    if (pair < width) {
      uint word = 0u;
      for (uint g = 0u; g < groups; ++g) word |= upper[(pair * groups + g) * kChunk + row] << (width * g);
      units[to + (4u + pair) * kChunk + row] = word;
    }
    barrier();
  }
}

// In order of columns, then rows.
void write_outliers() {
  const uint lane = gl_LocalInvocationIndex;
  uint next = first;
  [[dont_unroll]] for (uint unit = 0u; unit < pc.num_units; ++unit) {
    if ((has_outliers[unit >> 5] & (1u << (unit & 31u))) == 0u) continue;
    const int bias = int(unit_bias(rest[pc.units_at + unit]));
    const uint column = unit * kUnitCols + lane;
    if (lane < kUnitCols) {
      uint count = 0u;
      for (uint row = 0u; row < kChunk; ++row) {
        if (is_row(row)) count += outliers_of(rest_of(value(column, row), bias));
      }
      counts[lane] = count;
    }
    barrier();
    uint to = next;
    for (uint i = 0u; i < kUnitCols; ++i) {
      if (i < lane) to += counts[i];
      next += counts[i];
    }
    if (lane < kUnitCols && counts[lane] != 0u) {
      for (uint row = 0u; row < kChunk; ++row) {
        int left = is_row(row) ? rest_of(value(column, row), bias) : 0;
        while (left != 0) {
          const int part = clamp(left, -kMostRest, kMostRest);
          rest[pc.outliers_at + to] = column | (row << 16) | (uint(part) << 20);
          left -= part;
          ++to;
        }
      }
    }
    barrier();
  }
}

void main() {
  block = gl_WorkGroupID.x;
  has_outliers[gl_LocalInvocationIndex] = 0u;
  if (gl_LocalInvocationIndex == 0u) total = 0u;
  barrier();
  pack_units();
  barrier();
  if (gl_LocalInvocationIndex == 0u) {
    first = 0u;
    bool room = true;
    if (total != 0u) {
      first = atomicAdd(rest[pc.count_at], total);
      room = first <= pc.max_outliers && total <= pc.max_outliers - first;
      if (!room) atomicOr(rest[pc.count_at + 1u], 1u);
    }
    if (!room) first = total = 0u;
    const uint range = pc.ranges_at + 2u * (pc.first_block + block);
    rest[range] = first;
    rest[range + 1u] = first + total;
    atomicAdd(rest[pc.count_at + 2u], 1u);
  }
  barrier();
  if (total != 0u) write_outliers();
}
