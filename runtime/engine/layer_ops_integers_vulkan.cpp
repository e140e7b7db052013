// Products with, and rows of, weights that a device holds as integers.
#include <algorithm>
#include <bit>

#include "runtime/engine/layer_ops_vulkan.h"
#include "shaders/common/push_constants.h"

namespace nwc {
namespace {

constexpr uint32_t kTileTokens = 32, kTileRows = 64;  // shaders/common/matmul_sums.glsl
constexpr uint32_t kRowsGroup = 64;                   // shaders/integers_rows.comp, four numbers an invocation

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

}  // namespace

std::vector<LayerOps::Band> LayerOps::bands(const DeviceFormView& w, uint64_t max_blocks) const {
  const IntegerForm& form = w.form;
  const uint64_t room = device_.info().max_storage_range - w.alignment;
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): matrices of a model have columns.
  max_blocks = std::clamp<uint64_t>(std::min(max_blocks, room / form.row_block_bytes), 1, form.row_blocks());
  std::vector<Band> bands;
  for (uint64_t block = 0; block < form.row_blocks(); block += max_blocks) {
    const uint64_t blocks = std::min(max_blocks, form.row_blocks() - block), row = block * kChunk;
    const DeviceFormView::Units units = w.units(block, blocks);
    bands.push_back({units.view, units.first_word, static_cast<uint32_t>(row),
                     static_cast<uint32_t>(std::min(form.rows - row, blocks * kChunk))});
  }
  return bands;
}

Status LayerOps::embed(CommandBatch& batch, const IntegerWeightsView& embedding, const DeviceBuffer& ids,
                       uint32_t token_at, uint32_t tokens, const DeviceBuffer& x, float scale, bool add) const {
  const DeviceFormView view(embedding.buffer, embedding.offset, *embedding.form, device_.info().offset_alignment);
  const IntegerForm& form = view.form;
  for (const Band& band : bands(view, UINT32_MAX)) {
    const IntegerRowsPush push{.cols = static_cast<uint32_t>(form.cols),
                               .block_words = static_cast<uint32_t>(form.row_block_bytes / 4),
                               .weight_at = band.first_word,
                               .first_row = band.row,
                               .num_rows = band.rows,
                               .row_scale_at = view.index(form.row_scale_at) + band.row,
                               .factor_at = view.index(form.factor_at),
                               .shrink_at = view.index(form.shrink_at),
                               .units_at = view.index(view.device.units_at),
                               .ranges_at = view.index(view.device.ranges_at) + band.row / kChunk * 2,
                               .outliers_at = view.index(form.outliers_at),
                               .token_at = token_at,
                               .add = add ? 1u : 0u,
                               .scale = scale};
    NWC_TRY(batch.dispatch({ShaderId::kIntegersRows, {form.shrinks ? 1u : 0u, form.requantized ? 1u : 0u}, 0},
                           {band.view, &ids, &x, view.rest}, push, {groups_for(form.cols, 4 * kRowsGroup), tokens, 1}));
  }
  return {};
}

Status LayerOps::matmul(CommandBatch& batch, const IntegerWeightsView& w, uint32_t tokens, const DeviceRows& in,
                        const DeviceRows& out, bool add) const {
  const DeviceFormView view(w.buffer, w.offset, *w.form, device_.info().offset_alignment);
  const IntegerForm& form = view.form;
  const bool few = tokens <= kFewTokens;
  for (const Band& band : bands(view, few ? kMaxGroups : kMaxGroups * (kTileRows / kChunk))) {
    const IntegersPush push{.rows = band.rows,
                            .cols = static_cast<uint32_t>(form.cols),
                            .num_units = form.units(),
                            .block_wide = static_cast<uint32_t>(form.row_block_bytes / 16),
                            .weight_at = band.first_word / 4,
                            .row_scale_at = view.index(form.row_scale_at) + band.row,
                            .factor_at = view.index(form.factor_at),
                            .shrink_at = view.index(form.shrink_at),
                            .units_at = view.index(view.device.units_at),
                            .ranges_at = view.index(view.device.ranges_at) + band.row / kChunk * 2,
                            .outliers_at = view.index(form.outliers_at),
                            .x_at = in.at,
                            .x_stride = in.stride,
                            .y_at = out.at + band.row,
                            .y_stride = out.stride,
                            .num_tokens = tokens,
                            .add = add ? 1u : 0u};
    const Bindings bindings{band.view, in.buffer, out.buffer, view.rest};
    const uint32_t shrinks = form.shrinks ? 1 : 0, scaled = form.requantized ? 1 : 0;
    const bool dots = products_ == IntegerProducts::kDots && !form.requantized;
    if (few && dots) {
      const uint32_t together = std::min(std::bit_ceil(tokens), form.shrinks ? 2u : 4u);
      NWC_TRY(batch.dispatch({ShaderId::kIntegersFewDot, {together, shrinks}, 0}, bindings, push,
                             {groups_for(tokens, together), groups_for(band.rows, kChunk), 1}));
    } else if (few) {
      NWC_TRY(batch.dispatch({ShaderId::kIntegersFew, {std::bit_ceil(tokens), shrinks, scaled}, 0}, bindings, push,
                             groups_for(band.rows, kChunk)));
    } else {
      const PipelineKey variant = dots ? PipelineKey{ShaderId::kIntegersManyDot, {shrinks}, 0}
                                       : PipelineKey{ShaderId::kIntegersMany, {shrinks, scaled}, 0};
      NWC_TRY(batch.dispatch(variant, bindings, push,
                             {groups_for(band.rows, kTileRows), groups_for(tokens, kTileTokens), 1}));
    }
  }
  return {};
}

}  // namespace nwc
