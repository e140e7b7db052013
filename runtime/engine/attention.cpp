#include "runtime/engine/attention.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"

namespace nwc {
namespace {

/// Blocks that one task takes of a long context: so few that all threads have work with few heads, so many that merging
/// is nothing beside them. Fixed, so that results do not depend on the number of threads.
constexpr uint32_t kPieceBlocks = 4;

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

Status KvCache::allocate(const ModelLayout& layout, uint32_t context, uint32_t batch, Dtype dtype, HostMemory* memory) {
  dtype_ = dtype;
  uint64_t elements = 0;
  layers_ = place(layout, context, batch, &elements);
  NWC_TRY(keys_.allocate(elements * dtype_size(dtype), memory, "the cache of keys", Filled::kPartly));
  return values_.allocate(elements * dtype_size(dtype), memory, "the cache of values", Filled::kPartly);
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

template <typename Row>
void KvCache::for_each_row(const KeptCache& places, const Row& row) const {
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    const KeptCache::Layer& kept = places.layers()[l];
    for (uint32_t position = kept.begin; position < kept.end; ++position) {
      const uint32_t slot = position % kCacheBlock;
      for (uint32_t h = 0; h < kept.kv_heads; ++h) {
        const size_t at = block_index(layers_[l], h, position / kCacheBlock);
        const uint64_t of_head = uint64_t{h} * kept.row_bytes;
        row(at + slot, at + size_t{slot} * layers_[l].head_dim, kept.offset(position, 0) + of_head,
            kept.offset(position, 1) + of_head, layers_[l].head_dim);
      }
    }
  }
}

template <typename T>
void KvCache::save_as(const KeptCache& places, MutableBytes out) const {
  const T *keys = keys_.as<T>(), *values = values_.as<T>();
  for_each_row(places, [&](size_t key, size_t value, uint64_t to_key, uint64_t to_value, uint32_t dim) {
    for (uint32_t d = 0; d < dim; ++d)
      store_le(out.data() + to_key + size_t{d} * sizeof(T), keys[key + size_t{d} * kCacheBlock]);
    std::memcpy(out.data() + to_value, values + value, dim * sizeof(T));
  });
}

// Attention reads whole blocks, and multiplies what lies in front of a window by 0: that must be numbers.
template <typename T>
void KvCache::clear_before(const KeptCache& places) const {
  T *keys = keys_.as<T>(), *values = values_.as<T>();
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    const KeptCache::Layer& kept = places.layers()[l];
    if (kept.begin % kCacheBlock == 0) continue;
    const size_t block = size_t{kCacheBlock} * layers_[l].head_dim;
    for (uint32_t h = 0; h < kept.kv_heads; ++h) {
      const size_t at = block_index(layers_[l], h, kept.begin / kCacheBlock);
      std::fill_n(keys + at, block, T{0});
      std::fill_n(values + at, block, T{0});
    }
  }
}

template <typename T>
void KvCache::load_as(const KeptCache& places, Bytes in) const {
  T *keys = keys_.as<T>(), *values = values_.as<T>();
  clear_before<T>(places);
  for_each_row(places, [&](size_t key, size_t value, uint64_t from_key, uint64_t from_value, uint32_t dim) {
    for (uint32_t d = 0; d < dim; ++d)
      keys[key + size_t{d} * kCacheBlock] = load_le<T>(in.data() + from_key + size_t{d} * sizeof(T));
    std::memcpy(values + value, in.data() + from_value, dim * sizeof(T));
  });
}

void KvCache::save(const KeptCache& places, MutableBytes out) const {
  dtype_ == Dtype::kF32 ? save_as<uint32_t>(places, out) : save_as<uint16_t>(places, out);
}

void KvCache::load(const KeptCache& places, Bytes in) const {
  dtype_ == Dtype::kF32 ? load_as<uint32_t>(places, in) : load_as<uint16_t>(places, in);
}

namespace {

uint32_t num_pieces(uint32_t blocks) { return static_cast<uint32_t>(ceil_div(blocks, kPieceBlocks)); }

/// What a task leaves of one head over its piece of the positions: the weighted mean of the values, and the logarithm
/// of the sum of the exponentials that it was divided by.
size_t partial_size(const BlockSpec& block) { return size_t{block.head_dim} + 1; }

float largest_of(const float* row, uint32_t n) {
  constexpr uint32_t kLanes = 16;  // independent chains, which compilers turn into vectors
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, row[0]);
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (uint32_t j = 0; j < kLanes; ++j) lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
  }
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], row[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

void cap_scores(float scale, float cap, float* row, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) row[i] = cap * std::tanh(scale * row[i] / cap);
}

/// softmax in place, of scores that were multiplied by `factor`. Returns the logarithm of the sum of exponentials.
float softmax_of(const KernelTable& kernels, float factor, float* row, uint32_t n) {
  const float largest = largest_of(row, n);
  kernels.softmax(row, n, factor);
  // The largest score's exponential was 1 before the division by their sum.
  return factor * largest - std::log(largest_of(row, n));
}

/// One token and a long context: the positions are split as well as the heads, and the pieces merged.
void attend_in_pieces(const KernelTable& kernels, Runner& runner, const BlockSpec& block, const KvCache& cache,
                      uint32_t layer, uint32_t position, const float* queries, const float* sinks, float* out,
                      float* scratch, size_t scratch_stride) {
  const uint32_t dim = block.head_dim, heads = block.num_kv_heads, group = block.num_heads / heads;
  const uint32_t oldest = oldest_seen(block, position), first_block = oldest / kCacheBlock;
  const uint32_t blocks = position / kCacheBlock + 1 - first_block, pieces = num_pieces(blocks);
  constexpr uint32_t kStride = kPieceBlocks * kCacheBlock;
  const size_t of_worker = size_t{kCacheBlock} * dim + size_t{group} * kStride;
  const size_t size = partial_size(block);
  float* const partials = scratch + of_worker;  // [head][piece], in the first worker's scratch behind its own

  parallel_for(runner, heads * pieces, [&](uint32_t task, uint32_t worker) {
    const uint32_t head = task / pieces, piece = task % pieces;
    float* converted = scratch + worker * scratch_stride;
    float* scores = converted + size_t{kCacheBlock} * dim;  // [group][kStride]
    const uint32_t from = first_block + piece * kPieceBlocks, to = std::min(first_block + blocks, from + kPieceBlocks);
    const uint32_t origin = from * kCacheBlock;
    const uint32_t begin = std::max(oldest, origin) - origin;
    const uint32_t end = std::min(position + 1, to * kCacheBlock) - origin;
    const float* query = queries + size_t{head} * group * dim;
    for (uint32_t b = from; b < to; ++b) {
      const uint32_t at = (b - from) * kCacheBlock;
      const float* keys = cache.key_block(kernels, layer, head, b, converted);
      kernels.gemm(group, dim, std::min(kCacheBlock, end - at), query, dim, keys, kCacheBlock, scores + at, kStride,
                   false);
    }
    float* const sums = partials + (size_t{head} * group * pieces + piece) * size;  // one head is `pieces` further
    const float scale = score_scale(block);
    for (uint32_t g = 0; g < group; ++g) {
      float* row = scores + size_t{g} * kStride;
      if (block.attention_softcap != 0) cap_scores(scale, block.attention_softcap, row + begin, end - begin);
      const float factor = block.attention_softcap != 0 ? 1.0f : scale;
      sums[g * pieces * size + dim] = softmax_of(kernels, factor, row + begin, end - begin);
      std::fill(row, row + begin, 0.0f);
    }
    for (uint32_t b = from; b < to; ++b) {
      const uint32_t at = (b - from) * kCacheBlock;
      const float* values = cache.value_block(kernels, layer, head, b, converted);
      kernels.gemm(group, std::min(kCacheBlock, end - at), dim, scores + at, kStride, values, dim, sums, pieces * size,
                   b != from);
    }
  });

  for (uint32_t h = 0; h < block.num_heads; ++h, out += dim) {
    const float* const sums = partials + size_t{h} * pieces * size;
    float largest = sums[dim], total = 0;
    for (uint32_t p = 1; p < pieces; ++p) largest = std::max(largest, sums[p * size + dim]);
    if (sinks != nullptr) largest = std::max(largest, sinks[h]);
    for (uint32_t p = 0; p < pieces; ++p) total += std::exp(sums[p * size + dim] - largest);
    if (sinks != nullptr) total += std::exp(sinks[h] - largest);
    std::fill_n(out, dim, 0.0f);
    for (uint32_t p = 0; p < pieces; ++p) {
      const float weight = std::exp(sums[p * size + dim] - largest) / total;
      for (uint32_t d = 0; d < dim; ++d) out[d] += weight * sums[p * size + d];
    }
  }
}

}  // namespace

uint64_t attention_scratch(const ModelLayout& layout, uint32_t context, uint32_t batch) {
  uint64_t most = 0;
  for (const BlockSpec& block : layout.model.blocks) {
    const uint64_t group = block.num_heads / block.num_kv_heads, blocks = kept_blocks(block, context, batch);
    const uint64_t scores = group * kAttentionTokens * blocks * kCacheBlock;
    const uint64_t in_pieces = group * kPieceBlocks * kCacheBlock +
                               block.num_heads * num_pieces(static_cast<uint32_t>(blocks)) * partial_size(block);
    most = std::max(most, std::max(scores, in_pieces) + uint64_t{kCacheBlock} * block.head_dim);
  }
  return most;
}

void attend(const KernelTable& kernels, Runner& runner, const BlockSpec& block, const KvCache& cache, uint32_t layer,
            uint32_t position, uint32_t tokens, const float* qkv, size_t qkv_stride, const float* sinks, float* out,
            float* scratch, size_t scratch_stride) {
  const uint32_t dim = block.head_dim, heads = block.num_kv_heads;
  const uint32_t group = block.num_heads / heads;
  const size_t out_stride = size_t{block.num_heads} * dim;
  const float scale = score_scale(block);
  if (tokens == 1 && position / kCacheBlock + 1 - oldest_seen(block, position) / kCacheBlock > kPieceBlocks) {
    return attend_in_pieces(kernels, runner, block, cache, layer, position, qkv, sinks, out, scratch, scratch_stride);
  }
  const uint32_t token_blocks = static_cast<uint32_t>(ceil_div(tokens, kAttentionTokens));

  parallel_for(runner, token_blocks * heads, [&](uint32_t task, uint32_t worker) {
    // The last tokens see most and go first, so that no thread ends up alone with the longest piece.
    const uint32_t head = task % heads;
    const uint32_t first = (token_blocks - 1 - task / heads) * kAttentionTokens;
    const uint32_t count = std::min(kAttentionTokens, tokens - first);
    const uint32_t first_block = oldest_seen(block, position + first) / kCacheBlock, origin = first_block * kCacheBlock;
    const uint32_t newest = position + (block.causal ? first + count : tokens);  // what the last of these tokens sees
    const uint32_t length = newest - origin;
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
        const uint32_t begin = oldest_seen(block, own) - origin, end = (block.causal ? own + 1 : newest) - origin;
        if (block.attention_softcap != 0) cap_scores(scale, block.attention_softcap, row + begin, end - begin);
        const float factor = block.attention_softcap != 0 ? 1.0f : scale;
        if (sinks == nullptr) {
          kernels.softmax(row + begin, end - begin, factor);
        } else {
          const float log_sum = softmax_of(kernels, factor, row + begin, end - begin);
          const float share = 1 / (1 + std::exp(sinks[head * group + g] - log_sum));
          for (uint32_t i = begin; i < end; ++i) row[i] *= share;
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
