#include "runtime/engine/layer_ops_vulkan.h"

#include <bit>
#include <cmath>

#include "runtime/base/str_cat.h"
#include "shaders/common/push_constants.h"

namespace nwc {
namespace {

constexpr uint32_t kMaxHeadDim = 256;                 // shaders/attention.comp
constexpr uint32_t kTileTokens = 32, kTileRows = 64;  // shaders/matmul_many.comp
constexpr uint32_t kElementwiseGroup = 64;

uint32_t dtype_constant(Dtype dtype) {
  return dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 1 : 2;  // shaders/common/weights.glsl
}

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

}  // namespace

Status LayerOps::check(const LlamaLayout& layout, const DeviceInfo& device, const SessionSizes& sizes, uint32_t context,
                       uint32_t batch) {
  const ModelRecord& m = layout.model;
  if (m.head_dim % 4 != 0 || m.head_dim > kMaxHeadDim) {
    return unsupported(
        str_cat("heads of ", m.head_dim, " numbers: the Vulkan kernels take multiples of 4 up to ", kMaxHeadDim));
  }
  if (m.hidden_size % 2 != 0 || m.intermediate_size % 2 != 0) {
    return unsupported(str_cat("layers of ", m.hidden_size, " and ", m.intermediate_size,
                               " numbers: the Vulkan kernels take even ones"));
  }
  // Kernels see each of these as a whole. Weights are bound in bands of rows.
  const uint64_t range = device.max_storage_range;
  if (sizes.layer_cache > range) {
    return unsupported(str_cat("a context of ", context, " tokens takes ", sizes.layer_cache,
                               " bytes of KV cache a layer, of which ", device.name, " can bind ", range, ": at most ",
                               range / ceil_div(sizes.layer_cache, context), " tokens are possible"));
  }
  const uint64_t activations =
      std::max({sizes.hidden, sizes.qkv, sizes.attention, sizes.gate_up, sizes.activated, sizes.inputs});
  const uint64_t most = std::min<uint64_t>(kMaxGroups, range / ceil_div(activations, batch));
  if (activations > range || batch > kMaxGroups) {
    return unsupported(str_cat("a batch of ", batch, " tokens takes ", activations, " bytes at a time, of which ",
                               device.name, " can bind ", range, ": at most ", most, " tokens are possible"));
  }
  if (std::max(sizes.norms, sizes.logits) > range) {
    return unsupported(str_cat("logits or norms take ", std::max(sizes.norms, sizes.logits), " bytes, of which ",
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
                       uint32_t tokens, const DeviceBuffer& x) const {
  for (const Band& band : bands(embedding, UINT32_MAX)) {
    const EmbedPush push{.hidden = embedding.cols,
                         .first_word = band.first_word,
                         .first_row = band.row,
                         .num_rows = band.rows,
                         .num_tokens = tokens,
                         .token_at = token_at};
    NWC_TRY(batch.dispatch({ShaderId::kEmbedRows, {dtype_constant(embedding.dtype)}, 0}, {band.view, &ids, &x, nullptr},
                           push, {groups_for(embedding.cols / 2, kElementwiseGroup), tokens, 1}));
  }
  return {};
}

Status LayerOps::rms_norm(CommandBatch& batch, uint32_t tokens, const DeviceBuffer& x, const DeviceBuffer& gains,
                          uint32_t gain_at, const DeviceBuffer& out) const {
  const NormPush push{.n = model_.hidden_size, .gain_at = gain_at, .eps = model_.rms_norm_eps};
  return batch.dispatch({ShaderId::kRmsNorm, {}, 0}, {&x, &gains, &out, nullptr}, push, tokens);
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

Status LayerOps::rope_store(CommandBatch& batch, uint32_t tokens, uint32_t position, const DeviceBuffer& qkv,
                            const DeviceBuffer& angles, uint32_t angle_at, const DeviceBuffer& cache) const {
  const RopePush push{.num_heads = model_.num_heads,
                      .num_kv_heads = model_.num_kv_heads,
                      .head_dim = model_.head_dim,
                      .position = position,
                      .context = context_,
                      .angle_at = angle_at};
  const uint32_t items = (model_.num_heads + 2 * model_.num_kv_heads) * (model_.head_dim / 4);
  return batch.dispatch({ShaderId::kRopeStore, {kv_dtype_ == Dtype::kF32 ? 1u : 0u}, 0},
                        {&qkv, &angles, &cache, nullptr}, push, {groups_for(items, kElementwiseGroup), tokens, 1});
}

Status LayerOps::attend(CommandBatch& batch, uint32_t tokens, uint32_t position, const DeviceBuffer& qkv,
                        const DeviceBuffer& cache, const DeviceBuffer& out) const {
  const float scale = 1.0f / std::sqrt(static_cast<float>(model_.head_dim));
  const AttentionPush push{.num_heads = model_.num_heads,
                           .num_kv_heads = model_.num_kv_heads,
                           .head_dim = model_.head_dim,
                           .position = position,
                           .context = context_,
                           .scale = scale};
  return batch.dispatch({ShaderId::kAttention, {kv_dtype_ == Dtype::kF32 ? 1u : 0u}, 0}, {&qkv, &cache, &out, nullptr},
                        push, {model_.num_heads, tokens, 1});
}

Status LayerOps::swiglu(CommandBatch& batch, uint32_t tokens, const DeviceBuffer& gate_up,
                        const DeviceBuffer& out) const {
  const SwigluPush push{.n = model_.intermediate_size};
  return batch.dispatch({ShaderId::kSwiglu, {}, 0}, {&gate_up, &out, nullptr, nullptr}, push,
                        {groups_for(model_.intermediate_size, kElementwiseGroup), tokens, 1});
}

}  // namespace nwc
