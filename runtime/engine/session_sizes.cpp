#include "runtime/engine/session_sizes.h"

#include <algorithm>
#include <thread>

#include "runtime/codec/integer_decode.h"
#include "runtime/codec/tensor_decode.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/attention_split.h"
#include "runtime/engine/encoder_ends.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/integer_product.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/graph/rope.h"

namespace nwc {
namespace {

/// Weights of a band of the head that is decoded on the fly: enough rows to keep all threads busy.
constexpr uint64_t kHeadBandElements = 1u << 19;

/// zlib's window and state, and what the allocator adds to it all.
constexpr uint64_t kInflateBytes = 64u << 10;

/// What decoding one tensor takes beside its output, while it lasts.
uint64_t tensor_scratch(const NwcFile& file, size_t tensor, uint32_t workers, bool viewable) {
  const TensorRecord& r = file.tensors()[tensor];
  if (r.storage == Storage::kCoded) return TensorDecoder::call_bytes(file, tensor, workers);
  if (r.storage == Storage::kRawDeflated) return r.raw_bytes() + (viewable ? 0 : r.size);
  return viewable ? 0 : std::min<uint64_t>(r.size, kRawPieceBytes);
}

/// The same for matrices that are decoded to integers together: side information and outliers of all of them.
uint64_t integer_scratch(const NwcFile& file, const std::vector<size_t>& tensors,
                         const std::vector<const HeldMatrix*>& held, uint32_t workers) {
  uint64_t together = 0, tiles = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!held[i]->integers) continue;
    const uint64_t alone = TensorDecoder::call_bytes(file, tensors[i], 0);
    together += alone + integer_decode_bytes(held[i]->form, file.tensors()[tensors[i]].tile_cols, workers);
    tiles = std::max(tiles, TensorDecoder::call_bytes(file, tensors[i], workers) - alone);
  }
  return together + tiles;
}

uint64_t integer_scratch(const NwcFile& file, const ModelLayout& layout, const HeldWeights& held, uint32_t workers) {
  uint64_t most = 0;
  if (layout.has_embedding()) most = integer_scratch(file, {layout.embedding}, {&held.embedding}, workers);
  if (layout.has_head()) most = std::max(most, integer_scratch(file, {layout.head}, {&held.output(layout)}, workers));
  for (uint32_t l = 0; l < layout.layers.size(); ++l) {
    const auto scratch_of = [&](std::span<const PlacedMatrix> matrices) {
      std::vector<size_t> tensors;
      std::vector<const HeldMatrix*> forms;
      for (const PlacedMatrix& m : matrices) {
        tensors.push_back(m.tensor);
        forms.push_back(&held.matrix(layout, l, m));
      }
      return integer_scratch(file, tensors, forms, workers);
    };
    const LayerLayout& layer = layout.layers[l];
    most = std::max(most, scratch_of(layer.matrices));
    uint64_t expert = 0;
    for (uint32_t e = 0; e < layer.num_experts(); ++e) expert = std::max(expert, scratch_of(layer.expert(e)));
    most = std::max(most, expert * std::min(kExpertsAtOnce, layer.num_experts()));
  }
  return most;
}

/// Every choice of an expert by a token has rows of its own.
void place_device_experts(const ModelLayout& layout, uint32_t batch, SessionSizes* sizes) {
  uint64_t experts = 0, per_token = 0, inner = 0;
  for (const BlockSpec& block : layout.model.blocks) {
    experts = std::max<uint64_t>(experts, block.experts.num_experts);
    per_token = std::max<uint64_t>(per_token, block.experts.per_token);
    inner = std::max(inner, uint64_t{block.experts.per_token} * block.experts.intermediate_size);
  }
  if (layout.num_experts() == 0) return;
  const auto floats = [](uint64_t count) { return Buffer::rounded(count * sizeof(float)); };
  sizes->router_logits = floats((batch + uint64_t{kExpectTokens}) * (experts + 1) + 2 * experts);
  sizes->expert_rows = floats(batch * per_token * layout.model.hidden_size);
  sizes->expert_inner = floats(batch * 2 * inner);
  sizes->expert_activated = floats(batch * inner);
  sizes->choices = floats(batch * per_token * 4);
}

}  // namespace

uint32_t session_workers(const SessionParams& params) {
  if (params.num_threads != 0) return params.num_threads;
  return std::max(1u, std::thread::hardware_concurrency());
}

uint64_t decoder_scratch(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
                         const HeldWeights& held) {
  const uint32_t workers = session_workers(params);
  if (params.compute == Compute::kVulkan) {
    VulkanOptions options;
    options.max_window_bytes = params.device_window_bytes;
    return vulkan_decoder_bytes(file, options) + (held.any_integers() ? vulkan_integer_bytes(file, options) : 0);
  }
  const std::vector<size_t> tensors = all_tensors(layout);
  const bool viewable = file.reader().view(0, 1) != nullptr;
  uint64_t most = 0;
  for (const size_t tensor : tensors) most = std::max(most, tensor_scratch(file, tensor, workers, viewable));
  if (held.any_integers()) most = std::max(most, integer_scratch(file, layout, held, workers));
  return TensorDecoder::kept_bytes(file, tensors) + most + kInflateBytes;
}

std::pair<uint64_t, uint64_t> stored_range(const NwcFile& file, size_t tensor) {
  const TensorRecord& r = file.tensors()[tensor];
  const uint64_t begin = tensor == 0 ? 0 : file.tensors()[tensor - 1].offset + file.tensors()[tensor - 1].size;
  return {file.data_offset() + begin, file.data_offset() + r.offset + r.size};
}

uint64_t device_cache_bytes(const BlockSpec& block, uint32_t context, uint32_t batch, Dtype dtype) {
  return Buffer::rounded(2 * uint64_t{block.num_kv_heads} * kept_positions(block, context, batch) * block.head_dim *
                         dtype_size(dtype));
}

SessionSizes session_sizes(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
                           const HeldWeights& held, uint32_t context, uint32_t batch) {
  const ModelRecord& m = layout.model;
  const uint64_t element = dtype_size(held.row_dtype());
  const auto floats = [&](uint64_t per_token) { return Buffer::rounded(batch * per_token * sizeof(float)); };
  SessionSizes s;
  s.layer = Buffer::rounded(held.max_layer_bytes());
  s.embedding = Buffer::rounded(held.embedding.bytes);
  s.head = Buffer::rounded(held.head.bytes);
  if (held.any_integers()) {
    uint64_t widest = m.hidden_size;
    for (const LayerLayout& layer : layout.layers) {
      for (const PlacedMatrix& matrix : layer.matrices) widest = std::max<uint64_t>(widest, matrix.cols);
      if (layer.per_expert != 0) widest = std::max<uint64_t>(widest, layer.expert(0).back().cols);
    }
    s.integers = Buffer::rounded(integer_scratch(widest, batch));
  }
  for (uint32_t l = 0; l < layout.layers.size(); ++l) {
    if (layout.layers[l].num_experts() == 0) continue;
    const ExpertSpec& experts = layout.block(l).experts;
    const uint64_t weights = held.layers[l].expert_bytes;
    s.expert = std::max(s.expert, Buffer::rounded(weights));
    for (uint32_t e = 0; e < experts.num_experts; ++e) {
      uint64_t stored = 0;
      for (const PlacedMatrix& matrix : layout.layers[l].expert(e)) {
        const auto [begin, end] = stored_range(file, matrix.tensor);
        stored += end - begin;
      }
      s.stored_expert = std::max(s.stored_expert, Buffer::rounded(stored));
    }
    s.routed = std::max(s.routed, floats(2 * uint64_t{experts.per_token} + 1));
    s.router_logits = std::max(s.router_logits, floats(experts.num_experts));
    s.router_order = std::max(s.router_order, Buffer::rounded(experts.num_experts * sizeof(uint32_t)));
    // The choice of the next layer's experts is tried there, too.
    s.expert_inner = std::max(s.expert_inner, floats(std::max<uint64_t>(2 * uint64_t{experts.intermediate_size},
                                                                        2 * uint64_t{experts.per_token} + 1)));
  }
  s.vectors = Buffer::rounded(uint64_t{layout.vector_elements} * sizeof(float));
  if (layout.positions != kNoTensor)
    s.positions = Buffer::rounded(uint64_t{m.ends.position_rows} * m.hidden_size * element);
  if (layout.has_head()) {
    const TensorRecord& head = file.tensors()[layout.head];
    const uint64_t tile_rows = head.storage == Storage::kCoded ? head.tile_rows : 16;
    const uint64_t bands = std::max<uint64_t>(1, kHeadBandElements / m.hidden_size / tile_rows);
    s.head_band_rows = static_cast<uint32_t>(std::min<uint64_t>(m.vocab_size, bands * tile_rows));
    s.head_band = Buffer::rounded(uint64_t{s.head_band_rows} * m.hidden_size * element);
  }
  if (layout.has_embedding()) s.embedding_row = Buffer::rounded(m.hidden_size * element);
  if (m.is_encoder()) s.encoder = EncoderEnds::bytes(layout, context, session_workers(params));
  s.sequence_batch = params.sequences != 1 ? 1 : batch;
  s.kv_cache = KvCache::bytes(layout, context, s.sequence_batch, params.kv_dtype);
  if (!checked_mul(s.kv_cache, params.sequences, &s.kv_cache)) s.kv_cache = UINT64_MAX / 4;  // no budget holds that
  s.hidden = floats(m.hidden_size);
  s.qkv = floats(layout.max_width(Slot::kQkv));
  s.attention = floats(layout.max_width(Slot::kAttended));
  s.gate_up = floats(layout.max_width(Slot::kInner));
  const uint32_t angles = RotaryTables(m, context).width();
  s.angles = floats(angles);
  if (params.compute == Compute::kVulkan) {
    s.kv_cache = 0;
    for (uint32_t l = 0; l < m.num_layers; ++l) {
      const uint64_t cache = device_cache_bytes(layout.block(l), context, batch, params.kv_dtype);
      s.layer_cache = std::max(s.layer_cache, cache);
      s.kv_cache += cache;
    }
    uint32_t inner = 0;
    for (const BlockSpec& block : m.blocks) {
      inner = std::max(inner, block.dense_width());
      s.partials = std::max(s.partials, Buffer::rounded(attention_partial_bytes(block, context, batch)));
    }
    s.activated = floats(inner);
    s.inputs = floats(uint64_t{2} + angles + m.hidden_size);
    place_device_experts(layout, batch, &s);
    s.logits = Buffer::rounded(uint64_t{kDeviceLogitRows} * std::max(m.vocab_size, m.hidden_size) * sizeof(float));
    return s;
  }
  s.worker_scratch =
      Buffer::rounded(std::max<uint64_t>(kMatmulScratch, attention_scratch(layout, context, batch)) * sizeof(float));
  return s;
}

}  // namespace nwc
