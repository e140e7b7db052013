#version 450
// Rotates queries (in place) and keys, and puts keys and values into the KV cache; must match rope_rotate
// (runtime/graph/rope.h) within rounding, and f32_to_f16 (runtime/base/half.h) but for the rounding of the driver's
// packHalf2x16.
// Bindings: 0 qkv f32 [tokens][(heads + 2 kv_heads) head_dim], 1 angles, 2 the layer's cache. Workgroup: 64; four
// numbers of a head an invocation. groups: x over heads and quarters, y tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/kv_cache.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) buffer Qkv { float qkv[]; };
layout(std430, set = 0, binding = 1) readonly buffer Angles { float angles[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Cache { uint cache[]; };
layout(push_constant) uniform Parameters { RopePush pc; };

void store(uint kind, uint head, uint position, uint i, vec2 value) {
  const uint at = cache_word(kind, pc.num_kv_heads, pc.kept, pc.head_dim, head, position, i);
  if (kCacheF32 != 0) {
    cache[at] = floatBitsToUint(value.x);
    cache[at + 1u] = floatBitsToUint(value.y);
  } else {
    cache[at] = packHalf2x16(value);
  }
}

void main() {
  // Of each head the invocations rotate pairs, two at a time, then leave the rest of the numbers as they are.
  const uint half_dim = pc.rotated / 2u, pairs = half_dim / 2u;
  const uint each = pairs + (pc.head_dim - pc.rotated) / 2u;
  const uint head = gl_GlobalInvocationID.x / each;
  const uint item = gl_GlobalInvocationID.x % each;
  const uint t = gl_WorkGroupID.y;
  if (head >= pc.num_heads + 2u * pc.num_kv_heads) return;
  const uint slot = (pc.position + t) % pc.kept;
  const uint begin = (t * (pc.num_heads + 2u * pc.num_kv_heads) + head) * pc.head_dim;
  const uint angles_at = pc.angle_at + t * pc.angle_stride;
  const bool is_query = head < pc.num_heads, is_value = head >= pc.num_heads + pc.num_kv_heads;
  const uint key = is_value ? head - pc.num_heads - pc.num_kv_heads : head - pc.num_heads;  // unless a query
  const uint kind = is_value ? 1u : 0u;
  const float scale = is_query && pc.scale_queries != 0u ? angles[angles_at + pc.rotated] : 1.0;
  if (item >= pairs) {
    const uint i = pc.rotated + 2u * (item - pairs);
    const vec2 plain = scale * vec2(qkv[begin + i], qkv[begin + i + 1u]);
    if (!is_query) {
      store(kind, key, slot, i, plain);
    } else {
      qkv[begin + i] = plain.x;
      qkv[begin + i + 1u] = plain.y;
    }
    return;
  }
  const uint i = 2u * item, at = begin + i;
  const vec2 a = vec2(qkv[at], qkv[at + 1u]);
  const vec2 b = vec2(qkv[at + half_dim], qkv[at + half_dim + 1u]);
  if (is_value) {
    store(1u, key, slot, i, a);
    store(1u, key, slot, i + half_dim, b);
    return;
  }
  const uint angle = angles_at + i;
  const vec2 cosine = vec2(angles[angle], angles[angle + 1u]);
  const vec2 sine = vec2(angles[angle + half_dim], angles[angle + half_dim + 1u]);
  const vec2 first = scale * (a * cosine - b * sine);
  const vec2 second = scale * (b * cosine + a * sine);
  if (!is_query) {
    store(0u, key, slot, i, first);
    store(0u, key, slot, i + half_dim, second);
  } else {
    qkv[at] = first.x;
    qkv[at + 1u] = first.y;
    qkv[at + half_dim] = second.x;
    qkv[at + half_dim + 1u] = second.y;
  }
}
