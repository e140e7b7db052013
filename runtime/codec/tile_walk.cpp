#include "runtime/codec/tile_walk.h"

#include <algorithm>

namespace nwc {

void TileConsumer::column_band(const TileGeometry&, std::span<const ColumnGroup>, uint32_t) {}
void TileConsumer::row_block(const TileGeometry&, uint32_t, uint32_t, uint32_t) {}

void TileWorkers::prepare(uint32_t count) {
  while (workers_.size() < count) workers_.push_back(std::make_unique<TileWorker>());
  for (auto& worker : workers_) worker->walk = nullptr;
}

uint64_t tile_worker_bytes(const TensorRecord& record) {
  const TileGeometry tile = tile_grid(record).tile(0);
  const uint64_t payload = uint64_t{tile.slots()} * tile.row_blocks() * kMaxGroupBytes + kNumLanes * sizeof(uint32_t);
  return 2 * (std::min(payload, record.size) + kPayloadPadding) + tile.slots() * sizeof(ColumnGroup) +
         sizeof(TileWorker);
}

TileWalk::TileWalk(const NwcFile& file, const DecodeTables& tables, const TensorRecord& record,
                   const CodedTensor& coded, uint64_t band_begin, uint64_t band_end, const TensorDecodeOptions& options,
                   TileConsumer& consumer)
    : file_(file),
      tables_(tables),
      record_(record),
      coded_(coded),
      grid_(tile_grid(record)),
      kernels_(lane_kernels(options.cpu)),
      band_begin_(band_begin),
      band_end_(band_end),
      options_(options),
      consumer_(consumer) {}

Status TileWalk::run(Runner& runner, TileWorkers* workers) {
  TileWalk* const self = this;
  NWC_TRY(run_all({&self, 1}, runner, workers));
  return status();
}

Status TileWalk::run_all(std::span<TileWalk* const> walks, Runner& runner, TileWorkers* workers) {
  std::vector<uint64_t> end;  // of the units of each walk
  for (const TileWalk* walk : walks) {
    end.push_back((end.empty() ? 0 : end.back()) + walk->num_units());
    if (end.back() > UINT32_MAX)
      return limit_error(str_cat("tensor '", walk->record_.name, "': more than 2^32 tiles at once"));
  }
  if (walks.empty()) return {};
  workers->prepare(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(end.back()), [&](uint32_t unit, uint32_t worker) {
    const size_t i = static_cast<size_t>(std::upper_bound(end.begin(), end.end(), unit) - end.begin());
    walks[i]->run_unit(unit - (i == 0 ? 0 : end[i - 1]), worker, workers);
  });
  return {};
}

Status TileWalk::status() const {
  if (cancelled_)
    return Status(StatusCode::kCancelled, str_cat("decoding of tensor '", record_.name, "' was cancelled"));
  return error_;
}

void TileWalk::run_unit(uint64_t unit, uint32_t worker, TileWorkers* workers) {
  const uint64_t band = band_begin_ + unit % units_per_column() * 2;
  decode_unit(unit / units_per_column(), band, std::min<uint64_t>(2, band_end_ - band), worker, &(*workers)[worker]);
}

void TileWalk::decode_unit(uint64_t column_band, uint64_t row_band, uint64_t count, uint32_t worker, TileWorker* w) {
  // Tiles before the first bad one are always decoded, so that the error does not depend on the threads.
  if (cancelled_ || tile_number(column_band, row_band) > first_bad_) return;
  if (w->walk != this || w->groups_of != column_band) {
    const TileGeometry g = grid_.tile(column_band);
    build_column_groups(tables_, &*file_.codec(), coded_.level.data() + g.col, coded_.scale.data() + g.col, g.width,
                        &w->groups);
    w->walk = this;
    w->groups_of = column_band;
    consumer_.column_band(g, w->groups, worker);
  }
  bool ready = true;
  for (uint64_t i = 0; i < count && ready; ++i) {
    const uint64_t t = tile_number(column_band, row_band + i);
    ready = check(t, load(t, &w->streams[i]));
  }
  if (ready && count == 2 && !decode_tiles(column_band, row_band, 2, worker, w)) {
    // One of the two ran out of words: again, one after the other, to tell which.
    for (uint64_t i = 0; i < 2 && ready; ++i) ready = w->streams[i].begin().ok();
    for (uint64_t i = 0; i < 2 && ready; ++i) {
      if (i == 1) std::swap(w->streams[0], w->streams[1]);
      decode_tiles(column_band, row_band + i, 1, worker, w);
      ready = check(tile_number(column_band, row_band + i), w->streams[0].finish());
    }
  } else if (ready) {
    if (count == 1) decode_tiles(column_band, row_band, 1, worker, w);
    for (uint64_t i = 0; i < count; ++i) check(tile_number(column_band, row_band + i), w->streams[i].finish());
  }
  report(count);
}

Status TileWalk::load(uint64_t t, TileStream* stream) {
  const CodedTensor::Tile& tile = coded_.tiles[static_cast<size_t>(t)];
  NWC_ASSIGN_OR_RETURN(const MutableBytes to, stream->prepare(grid_.tile(t), tile.size));
  // Checked in the copy: what is decoded is what was checked, even if its owner changes the memory meanwhile.
  if (const uint8_t* view = file_.reader().view(tile.offset, tile.size); view != nullptr) {
    std::copy(view, view + tile.size, to.data());
  } else {
    NWC_TRY(file_.reader().read(tile.offset, to));
  }
  if (options_.check_crc && crc32(to) != tile.crc)
    return Status(StatusCode::kChecksum,
                  str_cat("CRC-32 of the payload at offset ", tile.offset, " does not match; the file is damaged"));
  return stream->begin();
}

// The first `count` streams, which hold the tiles of row_band, row_band + 1. False if one ran out of words.
bool TileWalk::decode_tiles(uint64_t column_band, uint64_t row_band, uint64_t count, uint32_t worker, TileWorker* w) {
  TileGeometry geometry[2];
  LaneStates* lanes[2] = {w->streams[0].lanes(), w->streams[1].lanes()};
  const LookupTables lookup = lookup_tables(tables_);
  for (uint64_t i = 0; i < count; ++i) geometry[i] = grid_.tile(tile_number(column_band, row_band + i));
  for (uint32_t r = 0; r < geometry[0].row_blocks(); ++r) {
    // Only the last row band is lower than the others, and it comes second.
    const uint32_t num = count == 2 && r < geometry[1].row_blocks() ? 2 : 1;
    for (uint32_t i = 0; i < num; ++i)
      w->streams[i].begin_row_block(tables_.context_kind, coded_.row_class, geometry[i].row + uint64_t{r} * kChunk);
    for (const ColumnGroup& group : w->groups) {
      kernels_.decode(lookup, group, lanes, num, w->values);
      for (uint32_t i = 0; i < num; ++i) {
        if (w->streams[i].ran_out()) return false;
        consumer_.group(geometry[i], r, i, group, w->values[i], worker);
      }
    }
    for (uint32_t i = 0; i < num; ++i) consumer_.row_block(geometry[i], r, i, worker);
  }
  return true;
}

bool TileWalk::check(uint64_t t, const Status& status) {
  if (status.ok()) return true;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (t < first_bad_) {
    first_bad_ = t;
    error_ = status.with_context(str_cat("tensor '", record_.name, "', tile ", t));
  }
  return false;
}

void TileWalk::report(uint64_t tiles) {
  if (options_.progress.callback == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  done_ += tiles;
  if (!options_.progress.report(done_, (band_end_ - band_begin_) * grid_.tiles_per_row())) cancelled_ = true;
}

}  // namespace nwc
