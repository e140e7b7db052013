#include "runtime/engine/layer_ops_vulkan.h"

#include <bit>
#include <cmath>

#include "runtime/base/str_cat.h"
#include "runtime/engine/attention_split.h"
#include "shaders/common/push_constants.h"

namespace nwc {
namespace {

constexpr uint32_t kMaxHeadDim = 256;                 // shaders/attention.comp
constexpr uint32_t kTileTokens = 32, kTileRows = 64;  // shaders/matmul_many.comp
constexpr uint32_t kElementwiseGroup = 64;
static_assert(kSplitBlock == kAttentionBlock);

uint32_t dtype_constant(Dtype dtype) {
  return dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 1 : 2;  // shaders/common/weights.glsl
}

/// What there is of rows that there need not be.
BufferView bound(const DeviceRows& rows) { return rows.buffer != nullptr ? BufferView(rows.buffer) : BufferView(); }

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

}  // namespace

Status LayerOps::check(const ModelLayout& layout, const DeviceInfo& device, const SessionSizes& sizes, uint32_t context,
                       uint32_t batch) {
  const ModelRecord& m = layout.model;
  for (const BlockSpec& block : m.blocks) {
    if (block.head_dim % 4 != 0 || block.head_dim > kMaxHeadDim) {
      return unsupported(
          str_cat("heads of ", block.head_dim, " numbers: the Vulkan kernels take multiples of 4 up to ", kMaxHeadDim));
    }
    if (block.rope_dims() % 4 != 0) {
      return unsupported(
          str_cat("heads of which ", block.rope_dims(), " numbers rotate: the Vulkan kernels take multiples of 4"));
    }
    const uint32_t of_experts = block.experts.intermediate_size, inner = block.dense_width();
    if (m.hidden_size % 2 != 0 || inner % 2 != 0 || of_experts % 2 != 0) {
      return unsupported(str_cat("layers of ", m.hidden_size, " and ", of_experts % 2 != 0 ? of_experts : inner,
                                 " numbers: the Vulkan kernels take even ones"));
    }
  }
  // Kernels see each of these as a whole. Weights are bound in bands of rows.
  const uint64_t range = device.max_storage_range;
  if (sizes.layer_cache > range) {
    return unsupported(str_cat("a context of ", context, " tokens takes ", sizes.layer_cache,
                               " bytes of KV cache a layer, of which ", device.name, " can bind ", range, ": at most ",
                               range / ceil_div(sizes.layer_cache, context), " tokens are possible"));
  }
  const uint64_t activations =
      std::max({sizes.hidden, sizes.qkv, sizes.attention, sizes.gate_up, sizes.activated, sizes.inputs,
                sizes.expert_rows, sizes.expert_inner, sizes.expert_activated, sizes.choices, sizes.router_logits});
  uint64_t most_tokens = kMaxGroups;  // a row of a token or of one of its experts is a workgroup
  for (const BlockSpec& block : m.blocks)
    most_tokens = std::min<uint64_t>(most_tokens, kMaxGroups / std::max(1u, block.experts.per_token));
  const uint64_t most = std::min(most_tokens, range / ceil_div(activations, batch));
  if (activations > range || batch > most_tokens) {
    return unsupported(str_cat("a batch of ", batch, " tokens takes ", activations, " bytes at a time, of which ",
                               device.name, " can bind ", range, ": at most ", most, " tokens are possible"));
  }
  if (std::max(sizes.vectors, sizes.logits) > range) {
    return unsupported(str_cat("logits or norms take ", std::max(sizes.vectors, sizes.logits), " bytes, of which ",
                               device.name, " can bind ", range));
  }
  return {};
}

std::vector<LayerOps::Band> LayerOps::bands(const DeviceMatrix& w, uint64_t max_rows) const {
  // Bands start where a binding may, so that only the first row's distance has to be added.
  const uint64_t alignment = std::max<uint64_t>(16, device_.info().offset_alignment);
  const uint64_t row_bytes = uint64_t{w.cols} * dtype_size(w.dtype);
  const uint64_t room = device_.info().max_storage_range - alignment;
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): matrices of a model have columns.
  max_rows = std::clamp<uint64_t>(std::min(max_rows, room / row_bytes), 1, w.rows);
  std::vector<Band> bands;
  for (uint64_t row = 0; row < w.rows; row += max_rows) {
    const uint64_t rows = std::min<uint64_t>(max_rows, w.rows - row);
    const uint64_t begin = w.offset + row * row_bytes;
    const uint64_t bound = begin / alignment * alignment;
    bands.push_back({BufferView(w.buffer, bound, begin - bound + rows * row_bytes),
                     static_cast<uint32_t>((begin - bound) / 4), static_cast<uint32_t>(row),
                     static_cast<uint32_t>(rows)});
  }
  return bands;
}

Status LayerOps::embed(CommandBatch& batch, const DeviceMatrix& embedding, const DeviceBuffer& ids, uint32_t token_at,
                       uint32_t tokens, const DeviceBuffer& x, float scale, bool add) const {
  for (const Band& band : bands(embedding, UINT32_MAX)) {
    const EmbedPush push{.hidden = embedding.cols,
                         .first_word = band.first_word,
                         .first_row = band.row,
                         .num_rows = band.rows,
                         .num_tokens = tokens,
                         .token_at = token_at,
                         .add = add ? 1u : 0u,
                         .scale = scale};
    NWC_TRY(batch.dispatch({ShaderId::kEmbedRows, {dtype_constant(embedding.dtype)}, 0}, {band.view, &ids, &x, nullptr},
                           push, {groups_for(embedding.cols / 2, kElementwiseGroup), tokens, 1}));
  }
  return {};
}

Status LayerOps::norm(CommandBatch& batch, const Norm& norm, uint32_t tokens, const DeviceRows& in,
                      const DeviceBuffer& vectors, const DeviceRows& out) const {
  const NormPush push{.n = norm.n,
                      .gain_at = norm.gain_at,
                      .bias_at = norm.bias_at,
                      .eps = norm.eps,
                      .layer_norm = norm.kind == NormKind::kLayer ? 1u : 0u,
                      .x_at = in.at,
                      .x_stride = in.stride,
                      .out_at = out.at,
                      .out_stride = out.stride};
  return batch.dispatch({ShaderId::kNormRows, {}, 0}, {in.buffer, &vectors, out.buffer, nullptr}, push,
                        {norm.rows, tokens, 1});
}

Status LayerOps::add_rows(CommandBatch& batch, uint32_t tokens, uint32_t n, float scale, const DeviceRows& x,
                          const DeviceRows& y) const {
  const AddPush push{.n = n, .x_stride = x.stride, .y_at = y.at, .y_stride = y.stride, .scale = scale};
  return batch.dispatch({ShaderId::kAddRows, {}, 0}, {x.buffer, y.buffer, nullptr, nullptr}, push,
                        {groups_for(n, kElementwiseGroup), tokens, 1});
}

Status LayerOps::scale_rows(CommandBatch& batch, uint32_t tokens, uint32_t n, const DeviceRows& x,
                            const DeviceRows& y) const {
  const AddPush push{.n = n, .x_stride = x.stride, .y_at = y.at, .y_stride = y.stride, .multiply = 1};
  return batch.dispatch({ShaderId::kAddRows, {}, 0}, {x.buffer, y.buffer, nullptr, nullptr}, push,
                        {groups_for(n, kElementwiseGroup), tokens, 1});
}

Status LayerOps::matmul(CommandBatch& batch, const DeviceMatrix& w, uint32_t tokens, const DeviceRows& in,
                        const DeviceRows& out, bool add) const {
  const bool few = tokens <= kFewTokens;
  const uint32_t padded = std::bit_ceil(tokens);
  // Two rows of eight tokens keep the partial sums within 8 KiB of shared memory.
  const uint32_t rows_per_group = !few ? kTileRows : padded <= 2 ? 4 : 2;
  const bool rows_wide = uint64_t{w.cols} * dtype_size(w.dtype) % 16 == 0;
  for (const Band& band : bands(w, uint64_t{kMaxGroups} * rows_per_group)) {
    const MatmulPush push{.rows = band.rows,
                          .cols = w.cols,
                          .weight_at = band.first_word,
                          .x_at = in.at,
                          .x_stride = in.stride,
                          .y_at = out.at + band.row,
                          .y_stride = out.stride,
                          .num_tokens = tokens,
                          .add = add ? 1u : 0u};
    const Bindings bindings{band.view, in.buffer, out.buffer, nullptr};
    const uint32_t wide = rows_wide && band.first_word % 4 == 0 ? 1 : 0;
    if (few) {
      NWC_TRY(batch.dispatch({ShaderId::kMatmulFew, {dtype_constant(w.dtype), padded, rows_per_group, wide}, 0},
                             bindings, push, groups_for(band.rows, rows_per_group)));
    } else {
      NWC_TRY(batch.dispatch({ShaderId::kMatmulMany, {dtype_constant(w.dtype)}, 0}, bindings, push,
                             {groups_for(band.rows, kTileRows), groups_for(tokens, kTileTokens), 1}));
    }
  }
  return {};
}

Status LayerOps::rope_store(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t position,
                            uint32_t kept, const DeviceBuffer& qkv, const DeviceRows& angles,
                            const DeviceBuffer& cache) const {
  const uint32_t rotated = block.rope_dims();
  const RopePush push{.num_heads = block.num_heads,
                      .num_kv_heads = block.num_kv_heads,
                      .head_dim = block.head_dim,
                      .position = position,
                      .kept = kept,
                      .rotated = rotated,
                      .angle_at = angles.at,
                      .angle_stride = angles.stride,
                      .scale_queries = block.temperature_beta != 0 ? 1u : 0u};
  const uint32_t items = (block.num_heads + 2 * block.num_kv_heads) * (rotated / 4 + (block.head_dim - rotated) / 2);
  return batch.dispatch({ShaderId::kRopeStore, {kv_dtype_ == Dtype::kF32 ? 1u : 0u}, 0},
                        {&qkv, angles.buffer, &cache, nullptr}, push,
                        {groups_for(items, kElementwiseGroup), tokens, 1});
}

Status LayerOps::attend(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t position, uint32_t kept,
                        const DeviceBuffer& qkv, const DeviceBuffer& cache, const DeviceRows& sinks,
                        const DeviceBuffer& partials, const DeviceBuffer& out) const {
  const uint64_t room = std::min(partials.size(), device_.info().max_storage_range);
  const AttentionSplit split = split_attention(block, tokens, position, room);
  const bool f32 = kv_dtype_ == Dtype::kF32;
  const uint64_t sums = uint64_t{tokens} * block.num_heads * split.pieces * block.head_dim;
  const AttentionPush push{.num_heads = block.num_heads,
                           .num_kv_heads = block.num_kv_heads,
                           .head_dim = block.head_dim,
                           .position = position,
                           .kept = kept,
                           .window = block.window,
                           .scale = score_scale(block),
                           .softcap = block.attention_softcap,
                           .num_tokens = tokens,
                           .tile_heads = split.tile_heads,
                           .head_tiles = split.head_tiles,
                           .tile_tokens = split.tile_tokens,
                           .origin = split.origin,
                           .piece = split.piece,
                           .pieces = split.pieces,
                           .statistics_at = static_cast<uint32_t>(sums / 2),
                           .sinks_at = sinks.buffer != nullptr ? sinks.at : kNoVectorAt,
                           .seen_end = block.causal ? 0 : position + tokens};
  const uint32_t wide = !f32 && block.head_dim % 8 == 0 ? 1 : 0;
  const bool whole = split.pieces == 1;
  NWC_TRY(batch.dispatch({ShaderId::kAttention, {f32 ? 1u : 0u, split.queries, wide}, 0},
                         {&qkv, &cache, whole ? &out : &partials, bound(sinks)}, push,
                         {block.num_kv_heads * split.head_tiles, split.token_tiles, split.pieces}));
  if (whole) return {};
  batch.barrier();
  const AttentionReducePush reduce{.head_dim = block.head_dim,
                                   .pieces = split.pieces,
                                   .statistics_at = push.statistics_at,
                                   .sinks_at = push.sinks_at};
  return batch.dispatch({ShaderId::kAttentionReduce, {}, 0}, {&partials, &out, bound(sinks), nullptr}, reduce,
                        {block.num_heads, tokens, 1});
}

Status LayerOps::activate(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t n,
                          const DeviceRows& in, const DeviceRows& out) const {
  const ActivatePush push{
      .n = n, .x_at = in.at, .out_at = out.at, .bound = block.clamp, .up_plus = block.up_plus_one ? 1.0f : 0.0f};
  const uint32_t kind = static_cast<uint32_t>(block.activation);
  return batch.dispatch({ShaderId::kActivate, {kind, block.gated ? 1u : 0u}, 0},
                        {in.buffer, out.buffer, nullptr, nullptr}, push, {groups_for(n, kElementwiseGroup), tokens, 1});
}

Status LayerOps::gather(CommandBatch& batch, uint32_t rows, uint32_t n, const DeviceBuffer& indices, uint32_t index_at,
                        const DeviceRows& in, const DeviceRows& out, bool add) const {
  const GatherPush push{.n = n, .index_at = index_at, .x_at = in.at, .y_at = out.at, .add = add ? 1u : 0u};
  return batch.dispatch({ShaderId::kGatherRows, {}, 0}, {in.buffer, &indices, out.buffer, nullptr}, push,
                        {groups_for(n, kElementwiseGroup), rows, 1});
}

Status LayerOps::combine(CommandBatch& batch, uint32_t tokens, uint32_t n, uint32_t per_token,
                         const DeviceBuffer& choices, uint32_t rows_at, uint32_t weights_at, const DeviceBuffer& in,
                         const DeviceBuffer& out, bool add) const {
  const CombinePush push{
      .n = n, .per_token = per_token, .rows_at = rows_at, .weights_at = weights_at, .add = add ? 1u : 0u};
  return batch.dispatch({ShaderId::kCombineRows, {}, 0}, {&in, &choices, &out, nullptr}, push,
                        {groups_for(n, kElementwiseGroup), tokens, 1});
}

Status LayerOps::share(CommandBatch& batch, uint32_t tokens, uint32_t n, const DeviceRows& logits,
                       const DeviceBuffer& x) const {
  const SharePush push{.n = n, .logit_at = logits.at, .logit_stride = logits.stride};
  return batch.dispatch({ShaderId::kShareRows, {}, 0}, {logits.buffer, &x, nullptr, nullptr}, push,
                        {groups_for(n, kElementwiseGroup), tokens, 1});
}

}  // namespace nwc
