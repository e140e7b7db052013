// Every tile of some row bands of a coded tensor, read, checked and decoded group by group: the frame that whole-tensor
// decoding and the fused product share. Internal to runtime/codec.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "runtime/codec/tensor_decode.h"
#include "runtime/codec/tile_stream.h"

namespace nwc {

/// The user of the values. Calls with the same `worker` do not overlap. A worker decodes up to kTilesAtOnce tiles at
/// once, of which `i` is the number. If one of them turns out to be damaged, all are decoded again, one after the other
/// as number 0, and row blocks that were handed over are handed over again.
class TileConsumer {
 public:
  virtual ~TileConsumer() = default;
  /// Called before the worker's first tile of a column band. groups: the band's columns, slot by slot; all have the
  /// band's number, and they are valid until another call with that number.
  virtual void column_band(const TileGeometry& tile, std::span<const ColumnGroup> groups, uint32_t worker);
  /// Takes the values of rows 16 row_block to 16 row_block + 15 of the tile in the columns of `group`.
  virtual void group(const TileGeometry& tile, uint32_t row_block, uint32_t i, const ColumnGroup& group,
                     const LaneValues& values, uint32_t worker) = 0;
  /// Called after all groups of a row block.
  virtual void row_block(const TileGeometry& tile, uint32_t row_block, uint32_t i, uint32_t worker);
};

/// Memory that a worker keeps from unit to unit. It may be kept from walk to walk, too.
struct TileWorker {
  struct ColumnBand {
    std::vector<ColumnGroup> groups;
    const class TileWalk* walk = nullptr;  ///< and the column band of it that `groups` describes
    uint64_t number = 0;
  };
  TileStream streams[kTilesAtOnce];
  ColumnBand bands[kTilesAtOnce];
  LaneValues values[kTilesAtOnce];
};
/// Upper estimate of what a worker takes for the tiles of a tensor.
uint64_t tile_worker_bytes(const TensorRecord& record);
class TileWorkers {
 public:
  /// Makes at least `count` workers, and lets all forget earlier walks.
  void prepare(uint32_t count);
  TileWorker& operator[](uint32_t worker) { return *workers_[worker]; }

 private:
  std::vector<std::unique_ptr<TileWorker>> workers_;
};

/// Decodes the tiles of row bands [band_begin, band_end), column band by column band, in units of up to kTilesAtOnce
/// tiles. Everything referred to must outlive the walk.
class TileWalk {
 public:
  TileWalk(const NwcFile& file, const DecodeTables& tables, const TensorRecord& record, const CodedTensor& coded,
           uint64_t band_begin, uint64_t band_end, const TensorDecodeOptions& options, TileConsumer& consumer);

  /// Parallel over units. errors: kCorrupt, kTruncated, kChecksum (of the tile that comes first in the file, by name),
  /// kLimit, kCancelled, those of the reader
  Status run(Runner& runner, TileWorkers* workers);
  /// Runs several walks as one. What came of each its status() says. errors: kLimit (nothing was run)
  static Status run_all(std::span<TileWalk* const> walks, Runner& runner, TileWorkers* workers);
  Status status() const;

 private:
  /// A tile at work.
  struct Tile {
    uint64_t number;  ///< in the file
    TileGeometry geometry;
    std::span<const ColumnGroup> groups;
    TileStream* stream;
    uint32_t i;
  };
  uint64_t num_tiles() const { return (band_end_ - band_begin_) * grid_.tiles_per_row(); }
  void decode_unit(uint64_t unit, uint32_t worker, TileWorker* w);
  Status load(uint64_t tile, TileStream* stream);
  bool decode_tiles(std::span<Tile> tiles, uint32_t worker, TileWorker* w);
  void decode_alone(Tile tile, uint32_t worker, TileWorker* w);
  bool check(uint64_t tile, const Status& status);
  void report(uint64_t tiles);

  const NwcFile& file_;
  const DecodeTables& tables_;
  const TensorRecord& record_;
  const CodedTensor& coded_;
  const TileGrid grid_;
  const LaneKernels kernels_;
  const uint64_t band_begin_, band_end_;
  const TensorDecodeOptions& options_;
  TileConsumer& consumer_;
  const uint32_t contexts_;  ///< of the rows
  std::mutex mutex_;
  Status error_;
  uint64_t num_units_ = 0, done_ = 0;
  std::atomic<uint64_t> first_bad_{UINT64_MAX};
  std::atomic<bool> cancelled_{false};
};

}  // namespace nwc
