#version 450
// Attention, causal or to all positions, of a tile of queries that share a KV head (heads of its group, and tokens one after another) to a
// piece of the positions: keys and values are read once for all of them. Positions go by in blocks of 64 with a running
// maximum, so that no row of scores is stored; must match attend (runtime/engine/attention.h) within rounding. The host
// chooses tile and pieces (runtime/engine/attention_split.h); of several pieces attention_reduce.comp makes one.
// Bindings: 0 qkv f32 [tokens][(heads + 2 kv_heads) head_dim], queries rotated, 1 the layer's cache, 2 with one piece
// out f32 [tokens][heads * head_dim], else partial results, 3 vectors f32, with the heads' sinks. Workgroup: 64. groups: x KV heads and tiles of their heads,
// y tiles of tokens, z pieces.
#extension GL_GOOGLE_include_directive : require
#include "common/kv_cache.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(constant_id = 1) const uint kQueries = 1;  // of a tile: 1, 2, 4 or 8
layout(constant_id = 2) const uint kWide = 0;     // rows of the cache are multiples of 16 bytes
layout(std430, set = 0, binding = 0) readonly buffer Qkv { vec4 qkv[]; };
layout(std430, set = 0, binding = 1) readonly buffer Cache { uvec2 cache[]; };
layout(std430, set = 0, binding = 1) readonly buffer WideCache { uvec4 wide_cache[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Out { vec4 attended[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Statistics { vec2 statistics[]; };
layout(std430, set = 0, binding = 3) readonly buffer Vectors { float vectors[]; };
layout(push_constant) uniform Parameters { AttentionPush pc; };

const uint kParts = 8u;       // of a block in which its scores are reduced
const float kNone = -3.402823e38;  // the score of a position that a query does not see
const float kLargestExponent = 80.0;  // whose exponential is finite, and beside which all else is nothing
// Four numbers each: [query][head_dim / 4], in the end the sums.
shared vec4 query[kQueries * 64];
shared float weight[kAttentionBlock * kQueries];  // [position][query]: scores, then their exponentials
shared float part_largest[kParts * kQueries];
shared float part_total[kParts * kQueries];
shared float largest[kQueries];
shared float next_largest[kQueries];
shared float total[kQueries];
shared float rescale[kQueries];
shared uint first_seen[kQueries];
shared uint end_seen[kQueries];

vec4 unpack(uvec2 halves) { return vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y)); }

// Four numbers of the cache. quad: their index in fours.
vec4 load_quad(uint quad) {
  return kCacheF32 != 0 ? uintBitsToFloat(wide_cache[quad]) : unpack(cache[quad]);
}

uint row_token(uint row, uint heads) { return gl_WorkGroupID.y * pc.tile_tokens + row / heads; }

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint quads = pc.head_dim / 4u, group = pc.num_heads / pc.num_kv_heads;
  const uint kv_head = gl_WorkGroupID.x / pc.head_tiles;
  const uint in_group = gl_WorkGroupID.x % pc.head_tiles * pc.tile_heads;  // of the tile's first head
  const uint heads = min(pc.tile_heads, group - in_group), head0 = kv_head * group + in_group;
  const uint token0 = gl_WorkGroupID.y * pc.tile_tokens;
  const uint tokens = min(pc.tile_tokens, pc.num_tokens - token0);
  const uint rows = heads * tokens;  // a tile's queries, [token][head]; the rest of kQueries sees nothing
  const uint width = (pc.num_heads + 2u * pc.num_kv_heads) * quads;

  for (uint i = i0; i < kQueries * quads; i += 64u) {
    const uint row = i / quads;
    const uint at = row_token(row, heads) * width + (head0 + row % heads) * quads + i % quads;
    query[i] = row < rows ? qkv[at] * pc.scale : vec4(0.0);
  }
  if (i0 < kQueries) {
    const uint own_end = pc.seen_end != 0u ? pc.seen_end : pc.position + row_token(i0, heads) + 1u;  // with itself
    const uint end = i0 < rows ? own_end : 0u;
    first_seen[i0] = pc.window != 0u && end > pc.window ? end - pc.window : 0u;
    end_seen[i0] = end;
    largest[i0] = kNone;
    total[i0] = 0.0;
  }
  // What any of the tile's tokens sees of this piece.
  const uint first_end = pc.position + token0 + 1u;
  const uint tile_begin = pc.window != 0u && first_end > pc.window ? first_end - pc.window : 0u;
  const uint piece_begin = pc.origin + gl_WorkGroupID.z * pc.piece;
  const uint begin = max(tile_begin, piece_begin);
  const uint tile_end = pc.seen_end != 0u ? pc.seen_end : pc.position + token0 + tokens;
  const uint end = min(tile_end, piece_begin + pc.piece);
  const uint keys = kv_head * pc.kept * quads, values = (pc.num_kv_heads + kv_head) * pc.kept * quads;

  // Sums: an invocation has four numbers of a head and every phases-th position.
  const uint phases = min(64u / quads, 8u);
  const uint phase = i0 / quads, own = i0 % quads;
  vec4 sum[kQueries];
  for (uint q = 0; q < kQueries; ++q) sum[q] = vec4(0.0);
  barrier();

  for (uint block = begin; block < end; block += kAttentionBlock) {
    const uint count = min(kAttentionBlock, end - block);
    // Scores: an invocation has a position.
    float score[kQueries];
    for (uint q = 0; q < kQueries; ++q) score[q] = 0.0;
    if (i0 < count) {
      const uint row = keys + (block + i0) % pc.kept * quads;
      if (kWide != 0) {
        for (uint i = 0; i < quads; i += 2u) {
          const uvec4 k = wide_cache[(row + i) / 2u];
          const vec4 a = unpack(k.xy), b = unpack(k.zw);
          for (uint q = 0; q < kQueries; ++q) {
            score[q] += dot(query[q * quads + i], a) + dot(query[q * quads + i + 1u], b);
          }
        }
      } else {
        for (uint i = 0; i < quads; ++i) {
          const vec4 k = load_quad(row + i);
          for (uint q = 0; q < kQueries; ++q) score[q] += dot(query[q * quads + i], k);
        }
      }
    }
    for (uint q = 0; q < kQueries; ++q) {
      float s = score[q];
      // Beyond 15 the tangent is 1 in f32, and some drivers' exponentials overflow.
      if (pc.softcap != 0.0) s = pc.softcap * tanh(clamp(s / pc.softcap, -15.0, 15.0));
      const uint position = block + i0;
      const bool seen = i0 < count && position >= first_seen[q] && position < end_seen[q];
      weight[i0 * kQueries + q] = seen ? s : kNone;
    }
    barrier();
    for (uint task = i0; task < kParts * kQueries; task += 64u) {
      const uint q = task % kQueries, part = task / kQueries;
      float most = kNone;
      for (uint j = part; j < kAttentionBlock; j += kParts) most = max(most, weight[j * kQueries + q]);
      part_largest[task] = most;
    }
    barrier();
    for (uint task = i0; task < kParts * kQueries; task += 64u) {
      const uint q = task % kQueries, part = task / kQueries;
      float most = largest[q];
      for (uint j = 0; j < kParts; ++j) most = max(most, part_largest[j * kQueries + q]);
      float of_part = 0.0;
      for (uint j = part; j < kAttentionBlock; j += kParts) {
        const float s = weight[j * kQueries + q];
        const float exponential = s == kNone ? 0.0 : exp(s - most);
        weight[j * kQueries + q] = exponential;
        of_part += exponential;
      }
      part_total[task] = of_part;
      if (part == 0u) {
        next_largest[q] = most;
        rescale[q] = exp(largest[q] - most);
      }
    }
    barrier();
    if (i0 < kQueries) {
      float more = 0.0;
      for (uint j = 0; j < kParts; ++j) more += part_total[j * kQueries + i0];
      total[i0] = total[i0] * rescale[i0] + more;
      largest[i0] = next_largest[i0];
    }
    for (uint q = 0; q < kQueries; ++q) sum[q] *= rescale[q];
    if (phase < phases) {
      const uint slot0 = block % pc.kept;
      for (uint j0 = phase; j0 < count; j0 += 4u * phases) {
        vec4 v[4];  // four loads at a time
        for (uint n = 0; n < 4u; ++n) {
          const uint slot = slot0 + min(j0 + n * phases, count - 1u);
          v[n] = load_quad(values + (slot < pc.kept ? slot : slot - pc.kept) * quads + own);
        }
        for (uint n = 0; n < 4u; ++n) {
          const uint j = j0 + n * phases;
          if (j >= count) break;
          for (uint q = 0; q < kQueries; ++q) sum[q] += weight[j * kQueries + q] * v[n];
        }
      }
    }
    barrier();
  }

  // A sink is one more score of a head, of a position without a value. Of several pieces the last step adds it.
  if (pc.sinks_at != kNoVectorAt && pc.pieces == 1u && i0 < rows) {
    const float sink = vectors[pc.sinks_at + head0 + i0 % heads];
    total[i0] += exp(min(sink - largest[i0], kLargestExponent));
  }

  // The phases' sums, one after another.
  for (uint p = 0; p < phases; ++p) {
    if (phase == p) {
      for (uint q = 0; q < kQueries; ++q) {
        const uint at = q * quads + own;
        query[at] = p == 0u ? sum[q] : query[at] + sum[q];
      }
    }
    barrier();
  }
  for (uint i = i0; i < rows * quads; i += 64u) {
    const uint row = i / quads;
    const uint out_row = row_token(row, heads) * pc.num_heads + head0 + row % heads;
    if (pc.pieces == 1u) {
      attended[out_row * quads + i % quads] = query[i] / total[row];
    } else {
      attended[(out_row * pc.pieces + gl_WorkGroupID.z) * quads + i % quads] = query[i];
    }
  }
  if (pc.pieces != 1u && i0 < rows) {
    const uint out_row = row_token(i0, heads) * pc.num_heads + head0 + i0 % heads;
    statistics[pc.statistics_at + out_row * pc.pieces + gl_WorkGroupID.z] = vec2(largest[i0], total[i0]);
  }
}
