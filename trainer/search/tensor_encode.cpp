#include "trainer/search/tensor_encode.h"

#include <algorithm>

#include "runtime/format/container.h"

namespace nwc {
namespace {

constexpr uint64_t kSmallTensor = 1u << 20;
constexpr uint64_t kLargeTensorTile = 128 * 256;
constexpr uint64_t kPreferredCols = 256;
constexpr uint64_t kTrellisRows = 512;

}  // namespace

TileShape choose_tile_shape(uint64_t m, uint64_t n, bool trellis) {
  const uint64_t budget = m * n <= kSmallTensor ? kMaxTileWeights : kLargeTensorTile;
  const uint64_t row_blocks = ceil_div(m, kChunk);
  const uint64_t height = std::min(kTrellisRows, row_blocks * kChunk);
  const uint64_t preferred =
      trellis ? std::clamp<uint64_t>(budget / height, 2 * kNumLanes, kMaxTileCols) : kPreferredCols;
  const uint64_t bands = ceil_div(n, preferred);
  const uint64_t cols = align_up(ceil_div(n, bands), kNumLanes);
  const uint64_t most = std::min<uint64_t>(kMaxTileRows, budget / cols) / kChunk;
  const uint64_t rows = kChunk * ceil_div(row_blocks, ceil_div(row_blocks, most));
  return {static_cast<uint32_t>(rows), static_cast<uint32_t>(cols)};
}

std::vector<uint8_t> side_information(const TensorScales& scales, std::span<const uint8_t> level,
                                      std::span<const uint8_t> row_class) {
  std::vector<uint8_t> side(level.begin(), level.end());
  side.insert(side.end(), scales.column.code.begin(), scales.column.code.end());
  side.insert(side.end(), scales.row.code.begin(), scales.row.code.end());
  side.insert(side.end(), row_class.begin(), row_class.end());
  return side;
}

Result<EncodedTensor> encode_tensor(const EncodeTables& tables, const QuantizedTensor& tensor, Runner& runner) {
  EncodedTensor out;
  const TileShape shape = choose_tile_shape(tensor.m, tensor.n, tables.trellis() != nullptr);
  assert(tables.trellis() == nullptr || tensor.tile_rows == shape.rows);
  out.tile_rows = shape.rows;
  out.tile_cols = shape.cols;
  const TileGrid grid{tensor.m, tensor.n, shape.rows, shape.cols, true};
  out.num_tiles = grid.num_tiles();
  if (out.num_tiles > UINT32_MAX) return limit_error("the tensor has more than 2^32 tiles");

  std::vector<uint8_t> row_class = tensor.row_class;
  row_class.resize(align_up(tensor.m, kChunk), 0);
  std::vector<std::vector<uint8_t>> payloads(out.num_tiles);
  std::vector<std::vector<int16_t>> scratch(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(out.num_tiles), [&](uint32_t t, uint32_t worker) {
    const TileGeometry tile = grid.tile(t);
    const size_t line = size_t{tile.width} * kChunk;
    std::vector<int16_t>& values = scratch[worker];
    values.resize(tile.row_blocks() * line);
    for (uint32_t rb = 0; rb < tile.row_blocks(); ++rb) {
      const uint64_t from = ((tile.row / kChunk + rb) * tensor.n + tile.col) * kChunk;
      std::copy_n(tensor.values.begin() + static_cast<ptrdiff_t>(from), line,
                  values.begin() + static_cast<ptrdiff_t>(rb * line));
    }
    encode_tile(tables, tile, tensor.level.data() + tile.col, row_class.data() + tile.row, values, &payloads[t]);
  });

  const std::vector<uint8_t> side = side_information(tensor.scales, tensor.level, tensor.row_class);
  out.side = deflate_bytes(side);
  if (out.side.size() > UINT32_MAX) return limit_error("side information of 4 GiB or more");
  ByteWriter directory;
  uint64_t total = 0;
  for (uint32_t t = 0; t < out.num_tiles; ++t) {
    directory.write(static_cast<uint32_t>(payloads[t].size()));
    directory.write(crc32(payloads[t]));
    total += payloads[t].size();
    out.state_bytes += uint64_t{grid.tile(t).lanes()} * 4;
  }
  out.directory = directory.take();
  out.payload.reserve(total);
  for (std::vector<uint8_t>& p : payloads) {
    out.payload.insert(out.payload.end(), p.begin(), p.end());
    std::vector<uint8_t>().swap(p);
  }
  out.crc = crc32(out.directory, crc32(out.side));
  return out;
}

void EncodedTensor::describe(const QuantizedTensor& tensor, TensorRecord* record) const {
  record->storage = Storage::kCoded;
  record->row_scales = !tensor.scales.row.code.empty();
  record->row_classes = !tensor.row_class.empty();
  record->free_states = true;
  record->size = size();
  record->crc = crc;
  record->side_size = static_cast<uint32_t>(side.size());
  record->tile_rows = tile_rows;
  record->tile_cols = tile_cols;
  record->scale_base = tensor.scales.column.base;
  record->row_scale_base = record->row_scales ? tensor.scales.row.base : 0;
}

}  // namespace nwc
