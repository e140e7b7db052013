#include "runtime/codec/tile_walk.h"

#include <algorithm>

namespace nwc {

void TileConsumer::column_band(const TileGeometry&, std::span<const ColumnGroup>, uint32_t) {}
void TileConsumer::row_block(const TileGeometry&, uint32_t, uint32_t, uint32_t) {}

void TileWorkers::prepare(uint32_t count) {
  while (workers_.size() < count) workers_.push_back(std::make_unique<TileWorker>());
  for (auto& worker : workers_) {
    for (TileWorker::ColumnBand& band : worker->bands) band.walk = nullptr;
  }
}

uint64_t tile_worker_bytes(const TensorRecord& record) {
  const TileGeometry tile = tile_grid(record).tile(0);
  const uint64_t payload = uint64_t{tile.slots()} * tile.row_blocks() * kMaxGroupBytes + kNumLanes * sizeof(uint32_t);
  return kTilesAtOnce * (std::min(payload, record.size) + kPayloadPadding + tile.slots() * sizeof(ColumnGroup)) +
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
      consumer_(consumer),
      contexts_(contexts_of(tables.context_kind, coded.row_class, band_begin * grid_.tile_rows,
                            band_end * grid_.tile_rows)) {}

Status TileWalk::run(Runner& runner, TileWorkers* workers) {
  TileWalk* const self = this;
  NWC_TRY(run_all({&self, 1}, runner, workers));
  return status();
}

Status TileWalk::run_all(std::span<TileWalk* const> walks, Runner& runner, TileWorkers* workers) {
  uint64_t fewest = 0;  // units
  for (const TileWalk* walk : walks) fewest += ceil_div(walk->num_tiles(), kTilesAtOnce);
  // Where there are few, all workers get as many.
  const uint64_t multiple = fewest < uint64_t{8} * runner.num_workers() ? runner.num_workers() : 1;
  std::vector<uint64_t> end;  // of the units of each walk
  for (TileWalk* walk : walks) {
    const uint64_t units = ceil_div(ceil_div(walk->num_tiles(), kTilesAtOnce), multiple) * multiple;
    walk->num_units_ = std::min(units, walk->num_tiles());
    end.push_back((end.empty() ? 0 : end.back()) + walk->num_units_);
    if (walk->num_tiles() > UINT32_MAX || end.back() > UINT32_MAX)
      return limit_error(str_cat("tensor '", walk->record_.name, "': more than 2^32 tiles at once"));
  }
  if (walks.empty()) return {};
  workers->prepare(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(end.back()), [&](uint32_t unit, uint32_t worker) {
    const size_t i = static_cast<size_t>(std::upper_bound(end.begin(), end.end(), unit) - end.begin());
    walks[i]->decode_unit(unit - (i == 0 ? 0 : end[i - 1]), worker, &(*workers)[worker]);
  });
  return {};
}

Status TileWalk::status() const {
  if (cancelled_)
    return Status(StatusCode::kCancelled, str_cat("decoding of tensor '", record_.name, "' was cancelled"));
  return error_;
}

void TileWalk::decode_unit(uint64_t unit, uint32_t worker, TileWorker* w) {
  if (cancelled_) return;
  // Tiles [begin, end) in order of column bands, then row bands.
  const uint64_t begin = unit * num_tiles() / num_units_, end = (unit + 1) * num_tiles() / num_units_;
  const uint64_t row_bands = band_end_ - band_begin_;
  const uint64_t first_band = begin / row_bands, last_band = (end - 1) / row_bands;
  Tile tiles[kTilesAtOnce];
  uint32_t count = 0;
  bool ready = true;
  for (uint64_t t = begin; t < end; ++t) {
    const uint64_t column_band = t / row_bands;
    const uint64_t number = (band_begin_ + t % row_bands) * grid_.tiles_per_row() + column_band;
    // Tiles before the first bad one are always decoded, so that the error does not depend on the threads.
    if (number > first_bad_) continue;
    const TileGeometry g = grid_.tile(number);
    TileWorker::ColumnBand* band = std::find_if(std::begin(w->bands), std::end(w->bands), [&](const auto& b) {
      return b.walk == this && b.number == column_band;
    });
    if (band == std::end(w->bands)) {  // in place of one that this unit has no tile in
      band = std::find_if(std::begin(w->bands), std::end(w->bands), [&](const auto& b) {
        return b.walk != this || b.number < first_band || b.number > last_band;
      });
      build_column_groups(tables_, &*file_.codec(), coded_.level.data() + g.col, coded_.scale.data() + g.col, g.width,
                          contexts_, &band->groups);
      band->walk = this;
      band->number = column_band;
      for (ColumnGroup& group : band->groups) group.band = static_cast<uint32_t>(band - w->bands);
      consumer_.column_band(g, band->groups, worker);
    }
    tiles[count] = {number, g, band->groups, &w->streams[count], count};
    ready = check(number, load(number, tiles[count].stream)) && ready;
    ++count;
  }
  const std::span<Tile> all(tiles, count);
  if (ready && decode_tiles(all, worker, w)) {
    for (const Tile& tile : all) check(tile.number, tile.stream->finish());
  } else {
    for (const Tile& tile : all) decode_alone(tile, worker, w);  // to tell which is damaged
  }
  report(end - begin);
}

void TileWalk::decode_alone(Tile tile, uint32_t worker, TileWorker* w) {
  if (tile.number > first_bad_ || !check(tile.number, load(tile.number, tile.stream))) return;
  tile.i = 0;
  decode_tiles({&tile, 1}, worker, w);
  check(tile.number, tile.stream->finish());
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

// False if one ran out of words.
bool TileWalk::decode_tiles(std::span<Tile> tiles, uint32_t worker, TileWorker* w) {
  const LookupTables lookup = lookup_tables(tables_);
  uint32_t row_blocks = 0;
  size_t slots = 0;
  for (const Tile& tile : tiles) {
    row_blocks = std::max(row_blocks, tile.geometry.row_blocks());
    slots = std::max(slots, tile.groups.size());
  }
  for (uint32_t r = 0; r < row_blocks; ++r) {
    for (const Tile& tile : tiles)
      tile.stream->begin_row_block(tables_.context_kind, coded_.row_class, tile.geometry.row + uint64_t{r} * kChunk);
    for (size_t slot = 0; slot < slots; ++slot) {
      // Tiles at the lower and right edge are smaller.
      const Tile* at_work[kTilesAtOnce];
      const ColumnGroup* groups[kTilesAtOnce];
      LaneStates* lanes[kTilesAtOnce];
      uint32_t num = 0;
      for (const Tile& tile : tiles) {
        if (r >= tile.geometry.row_blocks() || slot >= tile.groups.size()) continue;
        at_work[num] = &tile;
        groups[num] = &tile.groups[slot];
        lanes[num++] = tile.stream->lanes();
      }
      if (num != 0) kernels_.decode(lookup, groups, lanes, num, w->values);
      for (uint32_t n = 0; n < num; ++n) {
        const Tile& tile = *at_work[n];
        if (tile.stream->ran_out()) return false;
        consumer_.group(tile.geometry, r, tile.i, *groups[n], w->values[n], worker);
      }
    }
    for (const Tile& tile : tiles) {
      if (r < tile.geometry.row_blocks()) consumer_.row_block(tile.geometry, r, tile.i, worker);
    }
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
