// The KV cache and attention over it.
#pragma once

#include "runtime/base/thread_pool.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/kernel_table.h"
#include "runtime/engine/session_state.h"
#include "runtime/graph/model_layout.h"

namespace nwc {

/// Positions of a block of the cache: a multiple of every instruction set's tile.
inline constexpr uint32_t kCacheBlock = 96;
/// Tokens of a batch that attend together.
inline constexpr uint32_t kAttentionTokens = 8;

/// Positions that a layer keeps: the context, or, with a window, what the tokens of a batch see together.
uint32_t kept_positions(const BlockSpec& block, uint32_t context, uint32_t batch);

/// Keys and values, [layer][kv_head][block] of kCacheBlock positions each. A block of keys is [head_dim][kCacheBlock],
/// one of values [kCacheBlock][head_dim]: both are what the matrix product takes as its right-hand side, so that scores
/// and weighted sums need neither a transpose nor a horizontal addition. The blocks of a layer with a window are a
/// ring.
class KvCache {
 public:
  static uint64_t bytes(const ModelLayout& layout, uint32_t context, uint32_t batch, Dtype dtype);
  Status allocate(const ModelLayout& layout, uint32_t context, uint32_t batch, Dtype dtype, HostMemory* memory);

  /// Do the rings still hold all that the token at position `to` sees, after positions up to from - 1 were stored?
  bool holds(const ModelLayout& layout, size_t from, size_t to) const;

  /// Keys and values of the positions that `places` has, in the cache's type.
  void save(const KeptCache& places, MutableBytes out) const;
  void load(const KeptCache& places, Bytes in) const;

  /// key and value are [num_kv_heads][head_dim]; every position's bytes are apart from every other's.
  void store(const KernelTable& kernels, uint32_t layer, uint32_t position, const float* key, const float* value) const;
  /// Positions block * kCacheBlock and on of one head in f32; converted into scratch [head_dim * kCacheBlock] unless
  /// the cache holds f32.
  const float* key_block(const KernelTable& kernels, uint32_t layer, uint32_t head, uint32_t block,
                         float* scratch) const {
    return block_at(kernels, keys_, layer, head, block, scratch);
  }
  const float* value_block(const KernelTable& kernels, uint32_t layer, uint32_t head, uint32_t block,
                           float* scratch) const {
    return block_at(kernels, values_, layer, head, block, scratch);
  }

 private:
  struct Layer {
    size_t at = 0;  ///< elements in front of it
    uint32_t kv_heads = 0, head_dim = 0, blocks = 0;
  };
  static std::vector<Layer> place(const ModelLayout& layout, uint32_t context, uint32_t batch, uint64_t* elements);
  size_t block_index(const Layer& layer, uint32_t head, uint32_t block) const {
    return layer.at + (size_t{head} * layer.blocks + block % layer.blocks) * kCacheBlock * layer.head_dim;
  }
  const float* block_at(const KernelTable& kernels, const Buffer& buffer, uint32_t layer, uint32_t head, uint32_t block,
                        float* scratch) const;
  /// row(key's first element, value's, their offsets in the kept bytes): a key's elements are kCacheBlock apart.
  template <typename Row>
  void for_each_row(const KeptCache& places, const Row& row) const;
  template <typename T>
  void save_as(const KeptCache& places, MutableBytes out) const;
  template <typename T>
  void clear_before(const KeptCache& places) const;
  template <typename T>
  void load_as(const KeptCache& places, Bytes in) const;

  Buffer keys_, values_;
  Dtype dtype_ = Dtype::kF16;
  std::vector<Layer> layers_;
};

/// Floats of scratch memory that attend() needs per worker.
uint64_t attention_scratch(const ModelLayout& layout, uint32_t context, uint32_t batch);

/// Attention of `tokens` tokens at positions position, position + 1, ... whose keys and values are stored: to earlier
/// ones, or, in a block that is not causal, to all of them.
/// shapes: qkv [tokens][qkv_stride], queries first; out [tokens][num_heads * head_dim]; sinks [num_heads], logits that
/// take part in each softmax and have no value, or nullptr
void attend(const KernelTable& kernels, Runner& runner, const BlockSpec& block, const KvCache& cache, uint32_t layer,
            uint32_t position, uint32_t tokens, const float* qkv, size_t qkv_stride, const float* sinks, float* out,
            float* scratch, size_t scratch_stride);

}  // namespace nwc
