#include "runtime/codec/tensor_decode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>

#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tile_stream.h"

namespace nwc {
namespace {

// A row block of a tile in its final form. Rows of the output are often a multiple of 4 KiB apart: written group by
// group they would share a few sets of the first-level cache and take a page each. So they are collected here first.
struct StagedRows {
  alignas(64) uint8_t bytes[kChunk * kMaxTileCols * sizeof(float)];
};

// What one worker keeps from unit to unit.
struct Worker {
  explicit Worker(uint32_t width) : scratch(width) {}
  TileStream streams[2];
  std::vector<ColumnGroup> groups;
  uint64_t groups_of = UINT64_MAX;  // column band
  SynthesisScratch scratch;
  LaneValues values[2];
  LaneWeights weights;
  StagedRows staged[2];
};

// Decodes the tiles of row bands [band_begin, band_end) in units of two row bands of one column band: they share their
// columns, and two at once hide each other's latency. consume.group(geometry, row_block, i, slot, values, worker) gets
// every group of 16 rows by 32 columns of the unit's i-th tile, then consume.row_block(geometry, row_block, i, worker)
// is told that the row block is complete.
template <typename Consume>
class TileWalk {
 public:
  TileWalk(const NwcFile& file, const DecodeTables& tables, const TensorRecord& record, const CodedTensor& coded,
           uint64_t band_begin, uint64_t band_end, const TensorDecodeOptions& options, Consume consume)
      : file_(file),
        tables_(tables),
        record_(record),
        coded_(coded),
        grid_(tile_grid(record)),
        kernels_(lane_kernels(options.cpu)),
        band_begin_(band_begin),
        band_end_(band_end),
        options_(options),
        consume_(consume) {}

  Status run(Runner& runner) {
    const uint64_t units_per_column = ceil_div(band_end_ - band_begin_, 2);
    const uint64_t num_units = units_per_column * grid_.tiles_per_row();
    if (num_units > UINT32_MAX) return limit_error("tensor '" + record_.name + "': more than 2^32 tiles at once");
    std::vector<std::unique_ptr<Worker>> workers(runner.num_workers());
    for (auto& worker : workers) worker = std::make_unique<Worker>(file_.codec()->synthesis.width);
    parallel_for(runner, static_cast<uint32_t>(num_units), [&](uint32_t unit, uint32_t worker) {
      const uint64_t band = band_begin_ + unit % units_per_column * 2;
      decode_unit(unit / units_per_column, band, std::min<uint64_t>(2, band_end_ - band), workers[worker].get());
    });
    if (cancelled_) return Status(StatusCode::kCancelled, "decoding of tensor '" + record_.name + "' was cancelled");
    return error_;
  }

 private:
  uint64_t tile_number(uint64_t column_band, uint64_t row_band) const {
    return row_band * grid_.tiles_per_row() + column_band;
  }

  void decode_unit(uint64_t column_band, uint64_t row_band, uint64_t count, Worker* w) {
    // Tiles before the first bad one are always decoded, so that the error does not depend on the threads.
    if (cancelled_ || tile_number(column_band, row_band) > first_bad_) return;
    if (w->groups_of != column_band) {
      const TileGeometry g = grid_.tile(column_band);
      build_column_groups(tables_, &*file_.codec(), coded_.level.data() + g.col, coded_.scale.data() + g.col, g.width,
                          &w->groups);
      w->groups_of = column_band;
    }
    bool ready = true;
    for (uint64_t i = 0; i < count && ready; ++i) {
      const uint64_t t = tile_number(column_band, row_band + i);
      ready = check(t, load(t, &w->streams[i]));
    }
    if (ready && count == 2 && !decode_tiles(column_band, row_band, 2, w)) {
      // One of the two ran out of words: again, one after the other, to tell which.
      for (uint64_t i = 0; i < 2 && ready; ++i) ready = w->streams[i].begin().ok();
      for (uint64_t i = 0; i < 2 && ready; ++i) {
        if (i == 1) std::swap(w->streams[0], w->streams[1]);
        decode_tiles(column_band, row_band + i, 1, w);
        ready = check(tile_number(column_band, row_band + i), w->streams[0].finish());
      }
    } else if (ready) {
      if (count == 1) decode_tiles(column_band, row_band, 1, w);
      for (uint64_t i = 0; i < count; ++i) check(tile_number(column_band, row_band + i), w->streams[i].finish());
    }
    report(count);
  }

  Status load(uint64_t t, TileStream* stream) {
    const CodedTensor::Tile& tile = coded_.tiles[static_cast<size_t>(t)];
    NWC_ASSIGN_OR_RETURN(const MutableBytes to, stream->prepare(grid_.tile(t), tile.size));
    // Checked in the copy: what is decoded is what was checked, even if a mapped file changes meanwhile.
    if (const uint8_t* view = file_.reader().view(tile.offset, tile.size); view != nullptr) {
      std::copy(view, view + tile.size, to.data());
    } else {
      NWC_TRY(file_.reader().read(tile.offset, to));
    }
    if (options_.check_crc && crc32(to) != tile.crc)
      return Status(StatusCode::kChecksum, "CRC-32 of the payload at offset " + std::to_string(tile.offset) +
                                               " does not match; the file is damaged");
    return stream->begin();
  }

  // The first `count` streams, which hold the tiles of row_band, row_band + 1. False if one ran out of words.
  bool decode_tiles(uint64_t column_band, uint64_t row_band, uint64_t count, Worker* w) {
    TileGeometry geometry[2];
    LaneStates* lanes[2] = {w->streams[0].lanes(), w->streams[1].lanes()};
    for (uint64_t i = 0; i < count; ++i) geometry[i] = grid_.tile(tile_number(column_band, row_band + i));
    for (uint32_t r = 0; r < geometry[0].row_blocks(); ++r) {
      // Only the last row band is lower than the others, and it comes second.
      const uint32_t num = count == 2 && r < geometry[1].row_blocks() ? 2 : 1;
      for (uint32_t i = 0; i < num; ++i)
        w->streams[i].begin_row_block(tables_.context_kind, coded_.row_class, geometry[i].row + uint64_t{r} * kChunk);
      for (uint32_t j = 0; j < w->groups.size(); ++j) {
        kernels_.decode(lookup_tables(tables_), w->groups[j], lanes, num, w->values);
        for (uint32_t i = 0; i < num; ++i) {
          if (w->streams[i].ran_out()) return false;
          consume_.group(geometry[i], r, i, j, w->values[i], w);
        }
      }
      for (uint32_t i = 0; i < num; ++i) consume_.row_block(geometry[i], r, i, w);
    }
    return true;
  }

  bool check(uint64_t t, const Status& status) {
    if (status.ok()) return true;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (t < first_bad_) {
      first_bad_ = t;
      error_ = status.with_context("tensor '" + record_.name + "', tile " + std::to_string(t));
    }
    return false;
  }

  void report(uint64_t tiles) {
    if (options_.progress.callback == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ += tiles;
    if (!options_.progress.report(done_, (band_end_ - band_begin_) * grid_.tiles_per_row())) cancelled_ = true;
  }

  const NwcFile& file_;
  const DecodeTables& tables_;
  const TensorRecord& record_;
  const CodedTensor& coded_;
  const TileGrid grid_;
  const LaneKernels kernels_;
  const uint64_t band_begin_, band_end_;
  const TensorDecodeOptions& options_;
  Consume consume_;
  std::mutex mutex_;
  Status error_;
  uint64_t done_ = 0;
  std::atomic<uint64_t> first_bad_{UINT64_MAX};
  std::atomic<bool> cancelled_{false};
};

// What value k costs under a table.
double table_bits(const FrequencyTable& t, int32_t k) {
  const int32_t symbol = (k >> t.raw_bits) - t.min;
  const int32_t escape = static_cast<int32_t>(t.freq.size()) - 1;
  const bool escaped = symbol < 0 || symbol >= escape;
  const uint16_t freq = t.freq[static_cast<size_t>(escaped ? escape : symbol)];
  return kProbBits - std::log2(static_cast<double>(freq)) + (escaped ? 16 : t.raw_bits);
}

// Consumers of TileWalk.
struct RowWriter {
  const SynthesisView& net;
  const LaneKernels& kernels;
  const CodedTensor& coded;
  Dtype dtype;
  uint64_t row_begin, row_end, row_bytes;
  uint8_t* out;

  // The rows of row block r that are wanted.
  std::pair<uint64_t, uint64_t> rows(const TileGeometry& g, uint32_t r) const {
    const uint64_t row = g.row + uint64_t{r} * kChunk;
    return {std::max(row, row_begin), std::min({row + kChunk, g.row + g.height, row_end})};
  }

  void group(const TileGeometry& g, uint32_t r, uint32_t i, uint32_t j, const LaneValues& values, Worker* w) const {
    const auto [begin, end] = rows(g, r);
    if (begin >= end) return;
    kernels.synthesize(net, w->groups[j], values, w->scratch.data(), &w->weights);
    const uint64_t row = g.row + uint64_t{r} * kChunk;
    float row_scale[kChunk];
    StoreTarget target;
    target.out = w->staged[i].bytes + size_t{j} * kNumLanes * dtype_size(dtype);
    target.stride = size_t{g.width} * dtype_size(dtype);
    target.row_begin = static_cast<uint32_t>(begin - row);
    target.row_end = static_cast<uint32_t>(end - row);
    target.dtype = dtype;
    if (!coded.row_scale.empty()) {
      for (uint32_t c = target.row_begin; c < target.row_end; ++c) row_scale[c] = coded.row_scale[row + c];
      target.row_scale = row_scale;
    }
    kernels.store(w->weights, w->groups[j], target);
  }

  void row_block(const TileGeometry& g, uint32_t r, uint32_t i, Worker* w) const {
    const auto [begin, end] = rows(g, r);
    if (begin >= end) return;
    RowCopy copy;
    copy.from = w->staged[i].bytes;
    copy.width = g.width * dtype_size(dtype);
    copy.rows = end - begin;
    copy.to = out + (begin - row_begin) * row_bytes + g.col * dtype_size(dtype);
    copy.stride = row_bytes;
    kernels.copy(copy);
  }
};

struct ValueWriter {
  uint64_t cols;
  int16_t* out;

  void group(const TileGeometry& g, uint32_t r, uint32_t, uint32_t j, const LaneValues& values, Worker* w) const {
    int16_t* chunk = out + ((g.row / kChunk + r) * cols + g.col + uint64_t{j} * kNumLanes) * kChunk;
    for (uint32_t l = 0; l < w->groups[j].active; ++l, chunk += kChunk) {
      for (uint32_t c = 0; c < kChunk; ++c) chunk[c] = values.q[c][l];
    }
  }
  void row_block(const TileGeometry&, uint32_t, uint32_t, Worker*) const {}
};

}  // namespace

Status decode_tensor_rows(const NwcFile& file, const DecodeTables& tables, size_t tensor, uint64_t row_begin,
                          uint64_t row_end, Dtype dtype, MutableBytes out, Runner& runner,
                          const TensorDecodeOptions& options) {
  if (tensor >= file.tensors().size()) return invalid_argument("there is no tensor " + std::to_string(tensor));
  const TensorRecord& record = file.tensors()[tensor];
  const std::string who = "tensor '" + record.name + "'";
  if (record.storage != Storage::kCoded) return invalid_argument(who + ": not coded; read it as raw bytes");
  if (dtype != Dtype::kF32 && dtype != Dtype::kF16 && dtype != Dtype::kBf16)
    return invalid_argument(who + ": can be decoded to F32, F16 or BF16 only");
  if (row_begin > row_end || row_end > record.rows()) {
    return invalid_argument(who + ": rows " + std::to_string(row_begin) + " to " + std::to_string(row_end) + " of " +
                            std::to_string(record.rows()));
  }
  const uint64_t row_bytes = record.cols() * dtype_size(dtype);
  if (out.size() / row_bytes < row_end - row_begin) {
    return Status(StatusCode::kBufferTooSmall, who + ": the buffer has " + std::to_string(out.size()) +
                                                   " bytes, needs " +
                                                   std::to_string((row_end - row_begin) * row_bytes));
  }
  if (row_begin == row_end) return {};
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, options.check_crc));
  const SynthesisPlan plan(*file.codec());
  const LaneKernels kernels = lane_kernels(options.cpu);
  const RowWriter writer{plan.view(), kernels, coded, dtype, row_begin, row_end, row_bytes, out.data()};
  TileWalk walk(file, tables, record, coded, row_begin / record.tile_rows, ceil_div(row_end, record.tile_rows), options,
                writer);
  return walk.run(runner);
}

Status decode_tensor_values(const NwcFile& file, const DecodeTables& tables, size_t tensor, std::span<int16_t> out,
                            Runner& runner, const TensorDecodeOptions& options) {
  if (tensor >= file.tensors().size()) return invalid_argument("there is no tensor " + std::to_string(tensor));
  const TensorRecord& record = file.tensors()[tensor];
  const std::string who = "tensor '" + record.name + "'";
  if (record.storage != Storage::kCoded) return invalid_argument(who + ": not coded, has no values");
  const uint64_t n = record.cols();
  const uint64_t count = ceil_div(record.rows(), kChunk) * n * kChunk;
  if (out.size() < count) {
    return Status(StatusCode::kBufferTooSmall,
                  who + ": room for " + std::to_string(out.size()) + " values, needs " + std::to_string(count));
  }
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, options.check_crc));
  const ValueWriter writer{n, out.data()};
  TileWalk walk(file, tables, record, coded, 0, ceil_div(record.rows(), record.tile_rows), options, writer);
  return walk.run(runner);
}

double ideal_bits(const CodecRecord& codec, const TileGrid& grid, const CodedTensor& coded,
                  std::span<const int16_t> values) {
  const uint64_t row_blocks = ceil_div(grid.m, kChunk);
  assert(values.size() >= row_blocks * grid.n * kChunk);
  const Trellis* trellis = find_trellis(codec.trellis_bits);
  std::vector<uint8_t> state(static_cast<size_t>(grid.n), 0);
  double bits = 0;
  for (uint64_t rb = 0; rb < row_blocks; ++rb) {
    if (rb * kChunk % grid.tile_rows == 0) std::fill(state.begin(), state.end(), uint8_t{0});
    for (uint64_t col = 0; col < grid.n; ++col) {
      for (uint32_t c = 0; c < kChunk; ++c) {
        const int16_t q = values[(rb * grid.n + col) * kChunk + c];
        const uint32_t bank = Trellis::bank(state[col]);
        const int32_t k = trellis == nullptr ? q : trellis_value(q, bank);
        const uint32_t context = context_of(codec.context_kind, coded.row_class, rb * kChunk + c);
        bits += table_bits(codec.tables[codec.table_of(coded.level[col], context, bank)], k);
        if (trellis != nullptr) state[col] = trellis->next(state[col], k);
      }
    }
  }
  return bits;
}

}  // namespace nwc
