#version 450
// Rotates queries (in place) and keys, and puts keys and values into the KV cache; must match rope_rotate
// (runtime/engine/rope.h) within rounding, and f32_to_f16 (runtime/base/half.h) but for the rounding of the driver's
// packHalf2x16.
// Bindings: 0 qkv f32 [tokens][(heads + 2 kv_heads) head_dim], 1 angles, 2 the layer's cache. Workgroup: 64; four numbers
// of a head an invocation. groups: x over heads and quarters, y tokens.
#extension GL_GOOGLE_include_directive : require
#include "common/kv_cache.glsl"
#include "common/push_constants.h"

layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) buffer Qkv { float qkv[]; };
layout(std430, set = 0, binding = 1) readonly buffer Angles { float angles[]; };
layout(std430, set = 0, binding = 2) writeonly buffer Cache { uint cache[]; };
layout(push_constant) uniform Parameters { RopePush pc; };

void store(uint kind, uint head, uint position, uint i, vec2 value) {
  const uint at = cache_word(kind, pc.num_kv_heads, pc.context, pc.head_dim, head, position, i);
  if (kCacheF32 != 0) {
    cache[at] = floatBitsToUint(value.x);
    cache[at + 1u] = floatBitsToUint(value.y);
  } else {
    cache[at] = packHalf2x16(value);
  }
}

void main() {
  const uint quarters = pc.head_dim / 4u;
  const uint head = gl_GlobalInvocationID.x / quarters;
  const uint i = 2u * (gl_GlobalInvocationID.x % quarters);
  const uint t = gl_WorkGroupID.y;
  if (head >= pc.num_heads + 2u * pc.num_kv_heads) return;
  const uint half_dim = pc.head_dim / 2u;
  const uint at = (t * (pc.num_heads + 2u * pc.num_kv_heads) + head) * pc.head_dim + i;
  const vec2 a = vec2(qkv[at], qkv[at + 1u]);
  const vec2 b = vec2(qkv[at + half_dim], qkv[at + half_dim + 1u]);
  const uint key = head - pc.num_heads;  // for heads that are keys
  if (head >= pc.num_heads + pc.num_kv_heads) {
    store(1u, key - pc.num_kv_heads, pc.position + t, i, a);
    store(1u, key - pc.num_kv_heads, pc.position + t, i + half_dim, b);
    return;
  }
  const uint angle = pc.angle_at + t * pc.head_dim + i;
  const vec2 cosine = vec2(angles[angle], angles[angle + 1u]);
  const vec2 sine = vec2(angles[angle + half_dim], angles[angle + half_dim + 1u]);
  const vec2 first = a * cosine - b * sine;
  const vec2 second = b * cosine + a * sine;
  if (head >= pc.num_heads) {
    store(0u, key, pc.position + t, i, first);
    store(0u, key, pc.position + t, i + half_dim, second);
  } else {
    qkv[at] = first.x;
    qkv[at + 1u] = first.y;
    qkv[at + half_dim] = second.x;
    qkv[at + half_dim + 1u] = second.y;
  }
}
