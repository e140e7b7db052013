// Windows cover every tile of the rows asked for once, in order, within the limits.
#include <gtest/gtest.h>

#include "runtime/decoder/vulkan/window_layout.h"

namespace nwc {
namespace {

CodedTensor some_tensor(const TileGrid& grid, uint32_t payload) {
  CodedTensor coded;
  coded.level.assign(grid.n, 0);
  coded.scale.assign(grid.n, 1.0f);
  coded.tiles.assign(grid.num_tiles(), {0, payload, 0});
  return coded;
}

TEST(WindowPlan, CoversEveryTileOnce) {
  const TileGrid grid{1000, 777, 48, 64};
  const CodedTensor coded = some_tensor(grid, 2000);
  for (const uint64_t max_weights :
       {uint64_t{1}, uint64_t{5000}, uint64_t{40000}, uint64_t{200000}, uint64_t{1} << 30}) {
    const WindowLimits limits{max_weights, 1 << 20, 1000};
    uint64_t next_band = 0, next_column = 0;
    for (const TileWindow& w : plan_windows(grid, coded, 0, grid.m, limits)) {
      EXPECT_EQ(w.band_begin, next_band);
      EXPECT_EQ(w.tile_col_begin, next_column);
      const bool whole = w.tile_col_begin == 0 && w.tile_col_end == grid.tiles_per_row();
      EXPECT_TRUE(whole || w.band_end == w.band_begin + 1);
      const WindowLayout layout = layout_window(grid, coded, w, {});
      if (layout.tiles.size() > 1) {
        EXPECT_LE(layout.num_weights(), max_weights);
        EXPECT_LE(layout.total_words * 4, limits.max_input_bytes);
      }
      next_column = w.tile_col_end == grid.tiles_per_row() ? 0 : w.tile_col_end;
      if (next_column == 0) next_band = w.band_end;
    }
    EXPECT_EQ(next_band, grid.row_bands());
    EXPECT_EQ(next_column, 0u);
  }
}

TEST(WindowPlan, WindowsAreOfOneSize) {
  const TileGrid grid{33 * 48, 64, 48, 64};
  const CodedTensor coded = some_tensor(grid, 2000);
  // 32 bands would fit: 17 and 16 instead of 32 and 1.
  const auto windows = plan_windows(grid, coded, 0, grid.m, {32 * 48 * 64, 1 << 30, 1000});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].band_end, 17u);
  EXPECT_EQ(windows[1].band_end, 33u);
}

TEST(WindowPlan, TakesOnlyBandsOfTheRange) {
  const TileGrid grid{1000, 100, 48, 64};
  const CodedTensor coded = some_tensor(grid, 2000);
  const auto windows = plan_windows(grid, coded, 100, 101, {1u << 30, 1u << 30, 1000});
  ASSERT_EQ(windows.size(), 1u);
  EXPECT_EQ(windows[0].band_begin, 2u);
  EXPECT_EQ(windows[0].band_end, 3u);
  EXPECT_TRUE(plan_windows(grid, coded, 7, 7, {1u << 30, 1u << 30, 1000}).empty());
}

TEST(WindowPlan, PartsOfTheInputDoNotOverlap) {
  const TileGrid grid{100, 77, 48, 64};
  CodedTensor coded = some_tensor(grid, 1001);
  coded.row_scale.assign(grid.m, 1.0f);
  TensorContexts contexts;
  contexts.global.assign(2 * kChunk, 0);
  contexts.used.assign(3, 0);
  contexts.row_classes = true;
  const WindowLayout layout = layout_window(grid, coded, {0, 3, 0, 2}, contexts);
  EXPECT_EQ(layout.rows, 100u);
  EXPECT_EQ(layout.blocks, 7u);
  EXPECT_EQ(layout.width, 77u);
  const std::vector<uint32_t> starts = {layout.context_at, layout.used_at,      layout.tile_at,     layout.level_at,
                                        layout.scale_at,   layout.row_scale_at, layout.row_class_at};
  const std::vector<uint32_t> sizes = {2 * kChunk, 3, 6 * kTileRecordWords, 20, 77, 100, 28};
  uint32_t at = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    EXPECT_EQ(starts[i], at) << i;
    at += sizes[i];
  }
  ASSERT_EQ(layout.payload_at.size(), 6u);
  EXPECT_EQ(layout.payload_at[0], at);
  EXPECT_EQ(layout.payload_at[1], at + 251);
  EXPECT_EQ(layout.total_words, at + 6 * 251);
}

TEST(WindowPlan, AHostilePayloadSizeDoesNotInflateTheInput) {
  const TileGrid grid{16, 32, 16, 32};
  const WindowLayout layout = layout_window(grid, some_tensor(grid, UINT32_MAX), {0, 1, 0, 1}, {});
  EXPECT_LE(layout.total_words * 4, max_payload_bytes(grid.tile(0)) + 300);
}

TEST(WindowPlan, ContextsNameTheTablesInUse) {
  DecodeTables tables;
  tables.alias.resize(5);
  tables.info = {0, 1, 2, 3, 4 | 1 << 16};
  tables.num_levels = 2;
  for (uint32_t c = 0; c < kChunk; ++c) tables.context_map.push_back(c % 2 == 0 ? 1 : 3);
  for (uint32_t c = 0; c < kChunk; ++c) tables.context_map.push_back(4);
  const std::vector<uint8_t> first = {0, 0}, both = {0, 1};
  const TensorContexts one = build_contexts(tables, first, {});
  EXPECT_EQ(one.used, (std::vector<uint32_t>{1, 3}));
  EXPECT_FALSE(one.any_raw_bits);
  EXPECT_FALSE(one.row_classes);
  EXPECT_EQ(one.trellis, 0u);
  EXPECT_EQ(one.global[2], 3 * kBuckets);
  EXPECT_EQ(one.global[3], 3u);
  EXPECT_EQ(one.compact[2], kBuckets);
  const TensorContexts two = build_contexts(tables, both, {});
  EXPECT_EQ(two.used, (std::vector<uint32_t>{1, 3, 4}));
  EXPECT_TRUE(two.any_raw_bits);
}

TEST(WindowPlan, OnlyTheRowsClassesCount) {
  DecodeTables tables;
  tables.alias.resize(32);
  tables.info.resize(32);
  tables.info[2 * 7] = 3 << 16;
  tables.num_levels = 1;
  tables.num_banks = 2;
  tables.context_kind = ContextKind::kRowClass;
  tables.trellis = find_trellis(5);
  for (uint16_t i = 0; i < 32; ++i) tables.context_map.push_back(i);
  const std::vector<uint8_t> level = {0}, row_class = {9, 3, 9};
  const TensorContexts some = build_contexts(tables, level, row_class);
  EXPECT_EQ(some.used, (std::vector<uint32_t>{0, 1, 6, 7, 18, 19}));
  EXPECT_FALSE(some.any_raw_bits);
  EXPECT_TRUE(some.row_classes);
  EXPECT_EQ(some.trellis, 18u + 65536 * 4);
  EXPECT_EQ(build_contexts(tables, level, {}).used, (std::vector<uint32_t>{0, 1}));
}

}  // namespace
}  // namespace nwc
