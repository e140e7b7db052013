// A layer of the KV cache on the device: keys, then values, each [kv_head][context][head_dim] in f16 or f32.

layout(constant_id = 0) const uint kCacheF32 = 0;

// Index of the word that holds element `i` (even, if the cache holds f16) of a head's key or value at a position.
uint cache_word(uint kind, uint num_kv_heads, uint context, uint head_dim, uint head, uint position, uint i) {
  const uint element = ((kind * num_kv_heads + head) * context + position) * head_dim + i;
  return kCacheF32 != 0 ? element : element / 2u;
}
