#include "runtime/engine/attention.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"

namespace nwc {
namespace {

uint32_t num_blocks(uint32_t context) { return static_cast<uint32_t>(ceil_div(context, kCacheBlock)); }

/// Blocks of a layer's cache. A range of n positions lies in at most ceil(n / kCacheBlock) + 1 blocks.
uint32_t kept_blocks(const BlockSpec& block, uint32_t context, uint32_t batch) {
  return std::min(num_blocks(context), num_blocks(kept_positions(block, context, batch)) + 1);
}

}  // namespace

uint32_t kept_positions(const BlockSpec& block, uint32_t context, uint32_t batch) {
  if (block.window == 0) return context;
  return static_cast<uint32_t>(std::min<uint64_t>(context, uint64_t{block.window} - 1 + batch));
}

std::vector<KvCache::Layer> KvCache::place(const ModelLayout& layout, uint32_t context, uint32_t batch,
                                           uint64_t* elements) {
  std::vector<Layer> layers;
  *elements = 0;
  for (uint32_t l = 0; l < layout.layers.size(); ++l) {
    const BlockSpec& block = layout.block(l);
    const Layer layer{static_cast<size_t>(*elements), block.num_kv_heads, block.head_dim,
                      kept_blocks(block, context, batch)};
    *elements += uint64_t{layer.kv_heads} * layer.blocks * kCacheBlock * layer.head_dim;
    layers.push_back(layer);
  }
  return layers;
}

uint64_t KvCache::bytes(const ModelLayout& layout, uint32_t context, uint32_t batch, Dtype dtype) {
  uint64_t elements = 0;
  place(layout, context, batch, &elements);
  return 2 * Buffer::rounded(elements * dtype_size(dtype));
}

Status KvCache::allocate(const ModelLayout& layout, uint32_t context, uint32_t batch, Dtype dtype, uint64_t* counter) {
  dtype_ = dtype;
  uint64_t elements = 0;
  layers_ = place(layout, context, batch, &elements);
  NWC_TRY(keys_.allocate(elements * dtype_size(dtype), counter, "the cache of keys", Filled::kPartly));
  return values_.allocate(elements * dtype_size(dtype), counter, "the cache of values", Filled::kPartly);
}

const float* KvCache::block_at(const KernelTable& kernels, const Buffer& buffer, uint32_t layer, uint32_t head,
                               uint32_t block, float* scratch) const {
  const size_t at = block_index(layers_[layer], head, block);
  if (dtype_ == Dtype::kF32) return buffer.as<float>() + at;
  kernels.widen_f16(buffer.as<uint16_t>() + at, scratch, kCacheBlock * layers_[layer].head_dim);
  return scratch;
}

bool KvCache::holds(const ModelLayout& layout, size_t from, size_t to) const {
  if (from == 0) return true;
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    const size_t newest = (from - 1) / kCacheBlock;
    const size_t needed = oldest_seen(layout.block(l), to) / kCacheBlock;
    if (newest - std::min(newest, needed) >= layers_[l].blocks) return false;
  }
  return true;
}

void KvCache::store(const KernelTable& kernels, uint32_t layer, uint32_t position, const float* key,
                    const float* value) const {
  const uint32_t block = position / kCacheBlock, slot = position % kCacheBlock;
  const Layer& to = layers_[layer];
  const uint32_t dim = to.head_dim;
  for (uint32_t h = 0; h < to.kv_heads; ++h, key += dim, value += dim) {
    const size_t at = block_index(to, h, block);
    const size_t row = at + size_t{slot} * dim;
    if (dtype_ == Dtype::kF32) {
      float* column = keys_.as<float>() + at + slot;
      for (uint32_t d = 0; d < dim; ++d) column[size_t{d} * kCacheBlock] = key[d];
      std::copy_n(value, dim, values_.as<float>() + row);
    } else {
      uint16_t* column = keys_.as<uint16_t>() + at + slot;
      for (uint32_t d = 0; d < dim; ++d) column[size_t{d} * kCacheBlock] = f32_to_f16(key[d]);
      kernels.narrow_f16(value, values_.as<uint16_t>() + row, dim);
    }
  }
}

uint64_t attention_scratch(const ModelLayout& layout, uint32_t context, uint32_t batch) {
  uint64_t most = 0;
  for (const BlockSpec& block : layout.model.blocks) {
    const uint64_t rows = uint64_t{block.num_heads / block.num_kv_heads} * kAttentionTokens;
    most = std::max(most,
                    rows * kept_blocks(block, context, batch) * kCacheBlock + uint64_t{kCacheBlock} * block.head_dim);
  }
  return most;
}

void attend(const KernelTable& kernels, Runner& runner, const BlockSpec& block, const KvCache& cache, uint32_t layer,
            uint32_t position, uint32_t tokens, const float* qkv, size_t qkv_stride, float* out, float* scratch,
            size_t scratch_stride) {
  const uint32_t dim = block.head_dim, heads = block.num_kv_heads;
  const uint32_t group = block.num_heads / heads;
  const size_t out_stride = size_t{block.num_heads} * dim;
  const float scale = score_scale(block);
  const uint32_t token_blocks = static_cast<uint32_t>(ceil_div(tokens, kAttentionTokens));

  parallel_for(runner, token_blocks * heads, [&](uint32_t task, uint32_t worker) {
    // The last tokens see most and go first, so that no thread ends up alone with the longest piece.
    const uint32_t head = task % heads;
    const uint32_t first = (token_blocks - 1 - task / heads) * kAttentionTokens;
    const uint32_t count = std::min(kAttentionTokens, tokens - first);
    const uint32_t first_block = oldest_seen(block, position + first) / kCacheBlock, origin = first_block * kCacheBlock;
    const uint32_t length = position + first + count - origin;  // from the origin to what the last of these tokens sees
    const uint32_t blocks = num_blocks(length);
    const size_t stride = size_t{blocks} * kCacheBlock;
    float* converted = scratch + worker * scratch_stride;
    float* scores = converted + size_t{kCacheBlock} * dim;  // [group][count][stride]
    const float* queries = qkv + first * qkv_stride + size_t{head} * group * dim;
    float* result = out + first * out_stride + size_t{head} * group * dim;

    for (uint32_t b = 0; b < blocks; ++b) {
      const float* keys = cache.key_block(kernels, layer, head, first_block + b, converted);
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
        const uint32_t own = position + first + t;
        const uint32_t begin = oldest_seen(block, own) - origin, end = own + 1 - origin;
        if (block.attention_softcap != 0) {
          const float cap = block.attention_softcap;
          for (uint32_t i = begin; i < end; ++i) row[i] = cap * std::tanh(scale * row[i] / cap);
          kernels.softmax(row + begin, end - begin, 1.0f);
        } else {
          kernels.softmax(row + begin, end - begin, scale);
        }
        std::fill(row, row + begin, 0.0f);
        std::fill(row + end, row + length, 0.0f);
      }
    }
    for (uint32_t b = 0; b < blocks; ++b) {
      const float* values = cache.value_block(kernels, layer, head, first_block + b, converted);
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
