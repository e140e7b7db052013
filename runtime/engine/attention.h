// The KV cache and causal attention over it.
#pragma once

#include "runtime/base/thread_pool.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/kernel_table.h"
#include "runtime/format/model_record.h"

namespace nwc {

/// Positions of a block of the cache: a multiple of every instruction set's tile.
inline constexpr uint32_t kCacheBlock = 96;
/// Tokens of a batch that attend together.
inline constexpr uint32_t kAttentionTokens = 8;

/// Keys and values, [layer][kv_head][block] of kCacheBlock positions each. A block of keys is [head_dim][kCacheBlock],
/// one of values [kCacheBlock][head_dim]: both are what the matrix product takes as its right-hand side, so that scores
/// and weighted sums need neither a transpose nor a horizontal addition.
class KvCache {
 public:
  static uint64_t bytes(const ModelRecord& model, uint32_t context, Dtype dtype);
  Status allocate(const ModelRecord& model, uint32_t context, Dtype dtype, uint64_t* counter);

  /// key and value are [num_kv_heads][head_dim]; every position's bytes are apart from every other's.
  void store(const KernelTable& kernels, uint32_t layer, uint32_t position, const float* key, const float* value) const;
  /// Block of one head in f32; converted into scratch [head_dim * kCacheBlock] unless the cache holds f32.
  const float* key_block(const KernelTable& kernels, uint32_t layer, uint32_t head, uint32_t block,
                         float* scratch) const {
    return block_at(kernels, keys_, layer, head, block, scratch);
  }
  const float* value_block(const KernelTable& kernels, uint32_t layer, uint32_t head, uint32_t block,
                           float* scratch) const {
    return block_at(kernels, values_, layer, head, block, scratch);
  }

 private:
  size_t block_index(uint32_t layer, uint32_t head, uint32_t block) const;
  const float* block_at(const KernelTable& kernels, const Buffer& buffer, uint32_t layer, uint32_t head, uint32_t block,
                        float* scratch) const;

  Buffer keys_, values_;
  Dtype dtype_ = Dtype::kF16;
  uint32_t kv_heads_ = 0, head_dim_ = 0, blocks_ = 0;
};

/// Floats of scratch memory that attend() needs per worker.
uint64_t attention_scratch(const ModelRecord& model, uint32_t context);

/// Causal attention of `tokens` tokens at positions position, position + 1, ... whose keys and values are stored.
/// shapes: qkv [tokens][qkv_stride], queries first; out [tokens][num_heads * head_dim]
void attend(const KernelTable& kernels, Runner& runner, const ModelRecord& model, const KvCache& cache, uint32_t layer,
            uint32_t position, uint32_t tokens, const float* qkv, size_t qkv_stride, float* out, float* scratch,
            size_t scratch_stride);

}  // namespace nwc
