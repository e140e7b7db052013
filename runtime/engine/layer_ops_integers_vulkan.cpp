// Products with, and rows of, weights that a device holds as integers.
#include <algorithm>
#include <bit>

#include "runtime/engine/layer_ops_vulkan.h"
#include "shaders/common/push_constants.h"

namespace nwc {
namespace {

constexpr uint32_t kTileTokens = 32, kTileRows = 64;  // shaders/common/matmul_tile.glsl
constexpr uint32_t kRowsGroup = 64;                   // shaders/integers_rows.comp, four numbers an invocation

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

/// What lies behind the units, as kernels see it: places as indices of words.
struct Rest {
  Rest(const IntegerWeightsView& w, uint64_t alignment) : form(*w.form), device(form) {
    bound = (w.offset + form.row_scale_at) / alignment * alignment;
    first = w.offset - bound;  // of the form; may wrap around
    view = BufferView(w.buffer, bound, w.offset + device.bytes - bound);
  }
  uint32_t index(uint64_t at) const { return static_cast<uint32_t>((first + at) / 4); }

  const IntegerForm& form;
  const DeviceForm device;
  uint64_t bound = 0, first = 0;
  BufferView view;
};

}  // namespace

std::vector<LayerOps::Band> LayerOps::bands(const IntegerWeightsView& w, uint64_t max_blocks) const {
  const IntegerForm& form = *w.form;
  const uint64_t alignment = std::max<uint64_t>(16, device_.info().offset_alignment);
  const uint64_t room = device_.info().max_storage_range - alignment;
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): matrices of a model have columns.
  max_blocks = std::clamp<uint64_t>(std::min(max_blocks, room / form.row_block_bytes), 1, form.row_blocks());
  std::vector<Band> bands;
  for (uint64_t block = 0; block < form.row_blocks(); block += max_blocks) {
    const uint64_t blocks = std::min(max_blocks, form.row_blocks() - block), row = block * kChunk;
    const uint64_t begin = w.offset + block * form.row_block_bytes, bound = begin / alignment * alignment;
    bands.push_back({BufferView(w.buffer, bound, begin - bound + blocks * form.row_block_bytes),
                     static_cast<uint32_t>((begin - bound) / 4), static_cast<uint32_t>(row),
                     static_cast<uint32_t>(std::min(form.rows - row, blocks * kChunk))});
  }
  return bands;
}

Status LayerOps::embed(CommandBatch& batch, const IntegerWeightsView& embedding, const DeviceBuffer& ids,
                       uint32_t token_at, uint32_t tokens, const DeviceBuffer& x, float scale, bool add) const {
  const Rest rest(embedding, device_.info().offset_alignment);
  const IntegerForm& form = rest.form;
  for (const Band& band : bands(embedding, UINT32_MAX)) {
    const IntegerRowsPush push{.cols = static_cast<uint32_t>(form.cols),
                               .block_words = static_cast<uint32_t>(form.row_block_bytes / 4),
                               .weight_at = band.first_word,
                               .first_row = band.row,
                               .num_rows = band.rows,
                               .row_scale_at = rest.index(form.row_scale_at) + band.row,
                               .factor_at = rest.index(form.factor_at),
                               .shrink_at = rest.index(form.shrink_at),
                               .units_at = rest.index(rest.device.units_at),
                               .ranges_at = rest.index(rest.device.ranges_at) + band.row / kChunk * 2,
                               .outliers_at = rest.index(form.outliers_at),
                               .token_at = token_at,
                               .add = add ? 1u : 0u,
                               .scale = scale};
    NWC_TRY(batch.dispatch({ShaderId::kIntegersRows, {form.shrinks ? 1u : 0u}, 0}, {band.view, &ids, &x, rest.view},
                           push, {groups_for(form.cols, 4 * kRowsGroup), tokens, 1}));
  }
  return {};
}

Status LayerOps::matmul(CommandBatch& batch, const IntegerWeightsView& w, uint32_t tokens, const DeviceRows& in,
                        const DeviceRows& out, bool add) const {
  const Rest rest(w, device_.info().offset_alignment);
  const IntegerForm& form = rest.form;
  const bool few = tokens <= kFewTokens;
  for (const Band& band : bands(w, few ? kMaxGroups : kMaxGroups * (kTileRows / kChunk))) {
    const IntegersPush push{.rows = band.rows,
                            .cols = static_cast<uint32_t>(form.cols),
                            .num_units = form.units(),
                            .block_wide = static_cast<uint32_t>(form.row_block_bytes / 16),
                            .weight_at = band.first_word / 4,
                            .row_scale_at = rest.index(form.row_scale_at) + band.row,
                            .factor_at = rest.index(form.factor_at),
                            .shrink_at = rest.index(form.shrink_at),
                            .units_at = rest.index(rest.device.units_at),
                            .ranges_at = rest.index(rest.device.ranges_at) + band.row / kChunk * 2,
                            .outliers_at = rest.index(form.outliers_at),
                            .x_at = in.at,
                            .x_stride = in.stride,
                            .y_at = out.at + band.row,
                            .y_stride = out.stride,
                            .num_tokens = tokens,
                            .add = add ? 1u : 0u};
    const Bindings bindings{band.view, in.buffer, out.buffer, rest.view};
    const uint32_t shrinks = form.shrinks ? 1 : 0;
    if (few) {
      NWC_TRY(batch.dispatch({ShaderId::kIntegersFew, {std::bit_ceil(tokens), shrinks, 1}, 0}, bindings, push,
                             groups_for(band.rows, kChunk)));
    } else {
      NWC_TRY(batch.dispatch({ShaderId::kIntegersMany, {shrinks}, 0}, bindings, push,
                             {groups_for(band.rows, kTileRows), groups_for(tokens, kTileTokens), 1}));
    }
  }
  return {};
}

}  // namespace nwc
