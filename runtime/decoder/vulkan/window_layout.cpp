#include "runtime/decoder/vulkan/window_layout.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/codec/tile_decode.h"

namespace nwc {
namespace {

/// Input words of a tile, its record included.
uint64_t tile_words(const TileGrid& grid, const CodedTensor& coded, uint64_t t) {
  const uint64_t bytes = std::min<uint64_t>(coded.tiles[t].size, max_payload_bytes(grid.tile(t)));
  return kTileRecordWords + ceil_div(bytes, 4);
}

struct Load {
  uint64_t weights = 0, words = 0, tiles = 0;
};

/// One band's tiles [col_begin, col_end), with what columns and rows cost.
Load band_load(const TileGrid& grid, const CodedTensor& coded, uint64_t band, uint64_t col_begin, uint64_t col_end) {
  Load load;
  for (uint64_t c = col_begin; c < col_end; ++c) {
    const uint64_t t = band * grid.tiles_per_row() + c;
    const TileGeometry g = grid.tile(t);
    load.weights += uint64_t{g.row_blocks()} * kChunk * g.width;
    load.words += tile_words(grid, coded, t) + g.height + g.row_blocks() * (kChunk / 4);
    load.tiles += 1;
  }
  return load;
}

bool fits(const Load& load, uint64_t columns, const WindowLimits& limits) {
  // Contexts, list of tables, network, levels and scales of the columns come on top, and what alignment of the parts
  // costs.
  constexpr uint64_t kWindowSlack = 4096;
  constexpr uint32_t kMaxContextWords = kMaxLevels * kNumContexts * 2 * 2;
  constexpr uint32_t kMaxNetworkWords = 2 * kMaxLevels + kChunk * kChunk;
  const uint64_t words =
      load.words + kMaxContextWords + kMaxTables + kMaxNetworkWords + columns + ceil_div(columns, 4) + 16;
  return load.weights <= limits.max_weights && words * 4 <= limits.max_input_bytes && load.tiles <= limits.max_tiles &&
         words * 8 + load.tiles * 8 + load.weights * limits.bytes_per_weight + kWindowSlack <= limits.max_bytes;
}

/// As many bands to a window as fit, at most max_bands.
std::vector<TileWindow> plan_greedily(const TileGrid& grid, const CodedTensor& coded, uint64_t row_begin,
                                      uint64_t row_end, const WindowLimits& limits, uint64_t max_bands) {
  std::vector<TileWindow> windows;
  if (row_begin >= row_end) return windows;
  const uint64_t per_row = grid.tiles_per_row();
  const uint64_t end = ceil_div(row_end, grid.tile_rows);
  for (uint64_t band = row_begin / grid.tile_rows; band < end;) {
    Load load = band_load(grid, coded, band, 0, per_row);
    if (fits(load, grid.n, limits)) {
      TileWindow window{band, band + 1, 0, per_row};
      for (; window.band_end < end && window.band_end - band < max_bands; ++window.band_end) {
        const Load next = band_load(grid, coded, window.band_end, 0, per_row);
        load = {load.weights + next.weights, load.words + next.words, load.tiles + next.tiles};
        if (!fits(load, grid.n, limits)) break;
      }
      windows.push_back(window);
      band = window.band_end;
      continue;
    }
    for (uint64_t column = 0; column < per_row;) {
      TileWindow window{band, band + 1, column, column + 1};
      load = band_load(grid, coded, band, column, column + 1);
      for (; window.tile_col_end < per_row; ++window.tile_col_end) {
        const Load next = band_load(grid, coded, band, window.tile_col_end, window.tile_col_end + 1);
        load = {load.weights + next.weights, load.words + next.words, load.tiles + next.tiles};
        if (!fits(load, (window.tile_col_end + 1 - column) * grid.tile_cols, limits)) break;
      }
      windows.push_back(window);
      column = window.tile_col_end;
    }
    ++band;
  }
  return windows;
}

}  // namespace

std::vector<TileWindow> plan_windows(const TileGrid& grid, const CodedTensor& coded, uint64_t row_begin,
                                     uint64_t row_end, const WindowLimits& limits) {
  std::vector<TileWindow> windows = plan_greedily(grid, coded, row_begin, row_end, limits, UINT64_MAX);
  if (windows.size() < 2) return windows;
  // A small window at the end would take a device as long as a full one: all get as many bands.
  const uint64_t bands = windows.back().band_end - windows.front().band_begin;
  std::vector<TileWindow> even =
      plan_greedily(grid, coded, row_begin, row_end, limits, ceil_div(bands, windows.size()));
  return even.size() == windows.size() ? even : windows;
}

uint64_t max_payload_bytes(const TileGeometry& geometry) {
  // Every symbol can renormalise twice and escape.
  return geometry.lanes() * 4 + uint64_t{geometry.row_blocks()} * geometry.width * kChunk * 6;
}

WindowLayout layout_window(const TileGrid& grid, const CodedTensor& coded, const TileWindow& window,
                           const TensorContexts& contexts) {
  WindowLayout layout;
  layout.row = window.band_begin * grid.tile_rows;
  layout.col = window.tile_col_begin * grid.tile_cols;
  layout.rows = std::min(grid.m, window.band_end * grid.tile_rows) - layout.row;
  layout.width = static_cast<uint32_t>(std::min(grid.n, window.tile_col_end * grid.tile_cols) - layout.col);
  layout.blocks = static_cast<uint32_t>(ceil_div(layout.rows, kChunk));
  for (uint64_t band = window.band_begin; band < window.band_end; ++band) {
    for (uint64_t c = window.tile_col_begin; c < window.tile_col_end; ++c) {
      layout.tiles.push_back(band * grid.tiles_per_row() + c);
    }
  }
  uint64_t at = 0;
  const auto place = [&](uint64_t words) {
    const uint64_t where = at;
    at += words;
    return static_cast<uint32_t>(where);
  };
  layout.context_at = place(contexts.global.size());  // pairs: at a multiple of two words
  layout.used_at = place(contexts.used.size());
  layout.network_at = place(contexts.network.size());
  layout.tile_at = place(layout.tiles.size() * kTileRecordWords);
  layout.level_at = place(ceil_div(layout.width, 4));
  layout.scale_at = place(layout.width);
  if (!coded.row_scale.empty()) layout.row_scale_at = place(layout.rows);
  if (contexts.row_classes) layout.row_class_at = place(layout.blocks * (kChunk / 4));
  for (uint64_t t : layout.tiles) {
    layout.payload_at.push_back(place(tile_words(grid, coded, t) - kTileRecordWords));
  }
  layout.total_words = at;
  return layout;
}

TensorContexts build_contexts(const DecodeTables& tables, std::span<const uint8_t> level,
                              std::span<const uint8_t> row_class) {
  TensorContexts result;
  result.row_classes = tables.context_kind == ContextKind::kRowClass;
  if (tables.trellis != nullptr) result.trellis = tables.trellis->on_odd + 65536u * tables.trellis->parity;
  std::vector<uint8_t> level_used(tables.num_levels), table_used(tables.alias.size());
  for (const uint8_t l : level) level_used[l] = 1;
  // Rows beyond the last are of class 0.
  std::vector<uint8_t> context_used(kNumContexts, result.row_classes ? 0 : 1);
  context_used[0] = 1;
  for (const uint8_t c : row_class) context_used[c] = 1;
  for (uint32_t i = 0; i < tables.context_map.size(); ++i) {
    const uint32_t context = i / tables.num_banks;
    if (level_used[context / kNumContexts] != 0 && context_used[context % kNumContexts] != 0)
      table_used[tables.context_map[i]] = 1;
  }
  std::vector<uint32_t> place(tables.alias.size());
  for (uint32_t t = 0; t < table_used.size(); ++t) {
    if (table_used[t] == 0) continue;
    place[t] = static_cast<uint32_t>(result.used.size());
    result.used.push_back(t);
    result.any_raw_bits = result.any_raw_bits || (tables.info[t] >> 16 & 15u) != 0;
  }
  for (const uint16_t t : tables.context_map) {
    result.global.push_back(t * kBuckets);
    result.global.push_back(tables.info[t]);
    result.compact.push_back(place[t] * kBuckets);
    result.compact.push_back(tables.info[t]);
  }
  return result;
}

TensorContexts build_contexts(const DecodeTables& tables, const CodedTensor& coded, std::vector<float> network) {
  TensorContexts result = build_contexts(tables, coded.level, coded.row_class);
  result.num_levels = tables.num_levels;
  result.network = std::move(network);
  return result;
}

void pack_head(const CodedTensor& coded, const WindowLayout& layout, const TensorContexts& contexts, bool shared_tables,
               MutableBytes out) {
  const auto put = [&](uint32_t word, const void* from, size_t bytes) {
    if (bytes != 0) std::memcpy(out.data() + size_t{word} * 4, from, bytes);
  };
  put(layout.context_at, (shared_tables ? contexts.compact : contexts.global).data(), contexts.global.size() * 4);
  put(layout.used_at, contexts.used.data(), contexts.used.size() * 4);
  put(layout.network_at, contexts.network.data(), contexts.network.size() * sizeof(float));
  put(layout.level_at, coded.level.data() + layout.col, layout.width);
  put(layout.scale_at, coded.scale.data() + layout.col, size_t{layout.width} * 4);
  if (!coded.row_scale.empty()) {
    put(layout.row_scale_at, coded.row_scale.data() + layout.row, static_cast<size_t>(layout.rows) * 4);
  }
  if (contexts.row_classes) {
    std::memset(out.data() + size_t{layout.row_class_at} * 4, 0, size_t{layout.blocks} * kChunk);
    if (!coded.row_class.empty())
      put(layout.row_class_at, coded.row_class.data() + layout.row, static_cast<size_t>(layout.rows));
  }
}

void pack_tile_record(const WindowLayout& layout, size_t i, const TileGeometry& g, uint32_t payload_bytes,
                      MutableBytes out) {
  const uint32_t words[kTileRecordWords] = {layout.payload_at[i],
                                            (payload_bytes - g.lanes() * 4) / 2 | (g.free_states ? kTileFreeStates : 0),
                                            static_cast<uint32_t>(g.col - layout.col),
                                            g.width,
                                            static_cast<uint32_t>((g.row - layout.row) / kChunk),
                                            g.row_blocks()};
  std::memcpy(out.data() + (layout.tile_at + i * kTileRecordWords) * 4, words, sizeof words);
}

Status pack_window(const NwcFile& file, size_t tensor, const CodedTensor& coded, const WindowLayout& layout,
                   const TensorContexts& contexts, bool shared_tables, bool check_crc, Runner& runner, MutableBytes out,
                   size_t* first_bad, bool copy_payloads) {
  const TensorRecord& record = file.tensors()[tensor];
  const TileGrid grid = tile_grid(record);
  assert(out.size() >= (copy_payloads ? layout.total_words : layout.payload_at[0]) * 4);
  pack_head(coded, layout, contexts, shared_tables, out);
  std::vector<Status> statuses(layout.tiles.size());
  parallel_for(runner, static_cast<uint32_t>(layout.tiles.size()), [&](uint32_t i, uint32_t) {
    const uint64_t t = layout.tiles[i];
    const CodedTensor::Tile& tile = coded.tiles[t];
    const TileGeometry g = grid.tile(t);
    const auto fail = [&](StatusCode code, const std::string& why) {
      statuses[i] = Status(code, why).with_context(tile_context(record, t));
    };
    const uint32_t head = g.lanes() * 4;
    if (tile.size > max_payload_bytes(g)) {
      return fail(StatusCode::kChecksum, str_cat("the payload's ", tile.size, " bytes are more than a tile can use"));
    }
    Bytes payload(copy_payloads ? nullptr : file.reader().view(tile.offset, tile.size), tile.size);
    if (copy_payloads) {
      const MutableBytes copied = out.subspan(size_t{layout.payload_at[i]} * 4, tile.size);
      if (Status read = file.reader().read(tile.offset, copied); !read.ok()) {
        statuses[i] = read.with_context(tile_context(record, t));
        return;
      }
      payload = copied;
    }
    if (check_crc && crc32(payload) != tile.crc) return fail(StatusCode::kChecksum, "CRC-32 of the payload is wrong");
    if (tile.size < head) {
      return fail(StatusCode::kTruncated,
                  str_cat("a payload of ", tile.size, " bytes cannot hold ", g.lanes(), " states"));
    }
    if ((tile.size - head) % 2 != 0) return fail(StatusCode::kCorrupt, "half a word at the end of the payload");
    pack_tile_record(layout, i, g, tile.size, out);
  });
  for (size_t i = 0; i < statuses.size(); ++i) {
    *first_bad = i;
    NWC_TRY(statuses[i]);
  }
  return {};
}

std::string tile_context(const TensorRecord& record, uint64_t tile) { return str_cat(record.name, ", tile ", tile); }

Status check_tile(const NwcFile& file, const DecodeTables& tables, size_t tensor, const CodedTensor& coded,
                  uint64_t tile) {
  const TensorRecord& record = file.tensors()[tensor];
  const TileGeometry geometry = tile_grid(record).tile(tile);
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes payload,
                       read_range(file.reader(), coded.tiles[tile].offset, coded.tiles[tile].size, &storage));
  std::vector<int16_t> values(size_t{geometry.row_blocks()} * geometry.width * kChunk);
  std::span<const uint8_t> row_class(coded.row_class);
  row_class = row_class.subspan(std::min<size_t>(geometry.row, row_class.size()));
  const Status status =
      decode_tile(CpuLevel::kScalar, tables, geometry, coded.level.data() + geometry.col, row_class, payload, values);
  return status.with_context(tile_context(record, tile));
}

Status kernel_failure(const TensorRecord& record, uint64_t tile, uint32_t status) {
  return Status(StatusCode::kDevice, str_cat(tile_context(record, tile), ": the Vulkan device reports status ", status,
                                             " for a tile that the CPU decodes: decode on the CPU"));
}

}  // namespace nwc
