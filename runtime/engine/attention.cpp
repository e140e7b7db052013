#include "runtime/engine/attention.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"

namespace nwc {
namespace {

uint32_t num_blocks(uint32_t context) { return static_cast<uint32_t>(ceil_div(context, kCacheBlock)); }

uint64_t half_bytes(const ModelRecord& model, uint32_t context, Dtype dtype) {
  return uint64_t{model.num_layers} * model.num_kv_heads * num_blocks(context) * kCacheBlock * model.head_dim *
         dtype_size(dtype);
}

}  // namespace

uint64_t KvCache::bytes(const ModelRecord& model, uint32_t context, Dtype dtype) {
  return 2 * Buffer::rounded(half_bytes(model, context, dtype));
}

Status KvCache::allocate(const ModelRecord& model, uint32_t context, Dtype dtype, uint64_t* counter) {
  dtype_ = dtype;
  kv_heads_ = model.num_kv_heads;
  head_dim_ = model.head_dim;
  blocks_ = num_blocks(context);
  NWC_TRY(keys_.allocate(half_bytes(model, context, dtype), counter, "the cache of keys"));
  return values_.allocate(half_bytes(model, context, dtype), counter, "the cache of values");
}

size_t KvCache::block_index(uint32_t layer, uint32_t head, uint32_t block) const {
  return ((size_t{layer} * kv_heads_ + head) * blocks_ + block) * kCacheBlock * head_dim_;
}

const float* KvCache::block_at(const KernelTable& kernels, const Buffer& buffer, uint32_t layer, uint32_t head,
                               uint32_t block, float* scratch) const {
  const size_t at = block_index(layer, head, block);
  if (dtype_ == Dtype::kF32) return buffer.as<float>() + at;
  kernels.widen_f16(buffer.as<uint16_t>() + at, scratch, kCacheBlock * head_dim_);
  return scratch;
}

void KvCache::store(const KernelTable& kernels, uint32_t layer, uint32_t position, const float* key,
                    const float* value) const {
  const uint32_t block = position / kCacheBlock, slot = position % kCacheBlock;
  for (uint32_t h = 0; h < kv_heads_; ++h, key += head_dim_, value += head_dim_) {
    const size_t at = block_index(layer, h, block);
    const size_t row = at + size_t{slot} * head_dim_;
    if (dtype_ == Dtype::kF32) {
      float* column = keys_.as<float>() + at + slot;
      for (uint32_t d = 0; d < head_dim_; ++d) column[size_t{d} * kCacheBlock] = key[d];
      std::copy_n(value, head_dim_, values_.as<float>() + row);
    } else {
      uint16_t* column = keys_.as<uint16_t>() + at + slot;
      for (uint32_t d = 0; d < head_dim_; ++d) column[size_t{d} * kCacheBlock] = f32_to_f16(key[d]);
      kernels.narrow_f16(value, values_.as<uint16_t>() + row, head_dim_);
    }
  }
}

uint64_t attention_scratch(const ModelRecord& model, uint32_t context) {
  const uint64_t rows = uint64_t{model.num_heads / model.num_kv_heads} * kAttentionTokens;
  return rows * num_blocks(context) * kCacheBlock + uint64_t{kCacheBlock} * model.head_dim;
}

void attend(const KernelTable& kernels, Runner& runner, const ModelRecord& model, const KvCache& cache, uint32_t layer,
            uint32_t position, uint32_t tokens, const float* qkv, size_t qkv_stride, float* out, float* scratch,
            size_t scratch_stride) {
  const uint32_t dim = model.head_dim;
  const uint32_t group = model.num_heads / model.num_kv_heads;
  const size_t out_stride = size_t{model.num_heads} * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const uint32_t token_blocks = static_cast<uint32_t>(ceil_div(tokens, kAttentionTokens));

  parallel_for(runner, token_blocks * model.num_kv_heads, [&](uint32_t task, uint32_t worker) {
    // The last tokens see most and go first, so that no thread ends up alone with the longest piece.
    const uint32_t head = task % model.num_kv_heads;
    const uint32_t first = (token_blocks - 1 - task / model.num_kv_heads) * kAttentionTokens;
    const uint32_t count = std::min(kAttentionTokens, tokens - first);
    const uint32_t length = position + first + count;  // positions that the last of these tokens sees
    const uint32_t blocks = num_blocks(length);
    const size_t stride = size_t{blocks} * kCacheBlock;
    float* converted = scratch + worker * scratch_stride;
    float* scores = converted + size_t{kCacheBlock} * dim;  // [group][count][stride]
    const float* queries = qkv + first * qkv_stride + size_t{head} * group * dim;
    float* result = out + first * out_stride + size_t{head} * group * dim;

    for (uint32_t b = 0; b < blocks; ++b) {
      const float* keys = cache.key_block(kernels, layer, head, b, converted);
      const uint32_t width = std::min(kCacheBlock, length - b * kCacheBlock);
      float* at = scores + size_t{b} * kCacheBlock;
      if (count == 1) {  // one token: its heads are the rows of the product
        kernels.gemm(group, dim, width, queries, dim, keys, kCacheBlock, at, stride, false);
        continue;
      }
      for (uint32_t g = 0; g < group; ++g) {
        kernels.gemm(count, dim, width, queries + size_t{g} * dim, qkv_stride, keys, kCacheBlock,
                     at + size_t{g} * count * stride, stride, false);
      }
    }
    for (uint32_t g = 0; g < group; ++g) {
      for (uint32_t t = 0; t < count; ++t) {
        float* row = scores + (size_t{g} * count + t) * stride;
        const uint32_t visible = position + first + t + 1;
        kernels.softmax(row, visible, scale);
        std::fill(row + visible, row + length, 0.0f);
      }
    }
    for (uint32_t b = 0; b < blocks; ++b) {
      const float* values = cache.value_block(kernels, layer, head, b, converted);
      const uint32_t width = std::min(kCacheBlock, length - b * kCacheBlock);
      const float* at = scores + size_t{b} * kCacheBlock;
      if (count == 1) {
        kernels.gemm(group, width, dim, at, stride, values, dim, result, dim, b != 0);
        continue;
      }
      for (uint32_t g = 0; g < group; ++g) {
        kernels.gemm(count, width, dim, at + size_t{g} * count * stride, stride, values, dim, result + size_t{g} * dim,
                     out_stride, b != 0);
      }
    }
  });
}

}  // namespace nwc
