#version 450
// Causal attention of one head of one token per workgroup, over blocks of 64 positions with a running maximum, so that
// no row of scores is stored; must match attend (runtime/engine/attention.h) within rounding.
// Bindings: 0 qkv f32 [tokens][(heads + 2 kv_heads) head_dim], queries rotated, 1 the layer's cache, 2 out f32
// [tokens][heads * head_dim]. Workgroup: 64. groups: heads, tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/kv_cache.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };
layout(std430, set = 0, binding = 1) readonly buffer Cache { uint cache[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Out { float attended[]; };
layout(push_constant) uniform Parameters { AttentionPush pc; };

const uint kBlock = 64u;
const uint kMaxPairs = 2u;  // of an invocation: 2 * 64 pairs are 256 numbers
shared float query[256];
shared float weight[kBlock];
shared float reduced[kBlock];

vec2 load_pair(uint kind, uint head, uint position, uint i) {
  const uint at = cache_word(kind, pc.num_kv_heads, pc.kept, pc.head_dim, head, position, i);
  if (kCacheF32 != 0) return uintBitsToFloat(uvec2(cache[at], cache[at + 1u]));
  return unpackHalf2x16(cache[at]);
}

void main() {
  const uint i0 = gl_LocalInvocationIndex;
  const uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
  const uint kv_head = head / (pc.num_heads / pc.num_kv_heads);
  const uint width = (pc.num_heads + 2u * pc.num_kv_heads) * pc.head_dim;
  for (uint i = i0; i < pc.head_dim; i += kBlock) query[i] = qkv[t * width + head * pc.head_dim + i] * pc.scale;
  vec2 sum[kMaxPairs];
  for (uint p = 0; p < kMaxPairs; ++p) sum[p] = vec2(0.0);
  float largest = -3.402823e38, total = 0.0;
  const uint end = pc.position + t + 1u;  // a token sees itself
  barrier();

  const uint begin = pc.window != 0u && end > pc.window ? end - pc.window : 0u;

  for (uint first = begin; first < end; first += kBlock) {
    const uint position = first + i0;
    float score = -3.402823e38;
    if (position < end) {
      score = 0.0;
      for (uint i = 0; i < pc.head_dim; i += 2u) {
        const vec2 k = load_pair(0u, kv_head, position % pc.kept, i);
        score += query[i] * k.x + query[i + 1u] * k.y;
      }
      if (pc.softcap != 0.0) score = pc.softcap * tanh(score / pc.softcap);
    }
    reduced[i0] = score;
    for (uint half_size = kBlock / 2u; half_size != 0u; half_size /= 2u) {
      barrier();
      if (i0 < half_size) reduced[i0] = max(reduced[i0], reduced[i0 + half_size]);
    }
    barrier();
    const float before = largest;
    largest = max(largest, reduced[0]);
    const float own = position < end ? exp(score - largest) : 0.0;
    weight[i0] = own;
    barrier();
    const float kept = exp(before - largest);
    const uint count = min(kBlock, end - first);
    total *= kept;
    for (uint p = 0; p < kMaxPairs; ++p) sum[p] *= kept;
    for (uint j = 0; j < count; ++j) {
      total += weight[j];
      for (uint p = 0; p < kMaxPairs; ++p) {
        const uint i = 2u * (i0 + p * kBlock);
        if (i < pc.head_dim) sum[p] += weight[j] * load_pair(1u, kv_head, (first + j) % pc.kept, i);
      }
    }
    barrier();
  }
  for (uint p = 0; p < kMaxPairs; ++p) {
    const uint i = 2u * (i0 + p * kBlock);
    if (i >= pc.head_dim) continue;
    const uint at = (t * pc.num_heads + head) * pc.head_dim + i;
    attended[at] = sum[p].x / total;
    attended[at + 1u] = sum[p].y / total;
  }
}
