// The outliers of a tensor that is decoded to integers, as several workers find them. Internal to runtime/codec.
#pragma once

#include <atomic>
#include <deque>
#include <vector>

#include "runtime/codec/integer_form.h"
#include "runtime/codec/lane_kernels.h"

namespace nwc {

class FoundOutliers {
 public:
  /// most: of all workers together; workers that find more stop to keep them.
  FoundOutliers(uint32_t num_workers, uint64_t most) : most_(most), lists_(size_t{kTilesAtOnce} * num_workers) {}

  /// Keeps what a unit of `bits` cuts off. over: as PackUnit says. Units of the same row block and i that a worker adds
  /// one after the other are a run, which end_run() ends.
  void add(const LaneValues& values, uint32_t bits, const uint32_t* over, uint64_t first_column, uint32_t worker,
           uint32_t i);
  void end_run(uint64_t row_block, uint32_t worker, uint32_t i);

  bool too_many() const { return count_ > most_; }
  /// Writes those of row blocks [first, end) in order of the row blocks: out[begin[b] .. begin[b + 1]) are of row block
  /// b. begin[first] is given. Room: `most`, which the caller has made sure of.
  void place(uint64_t first, uint64_t end, uint32_t* begin, Outlier* out) const;
  /// Puts those of each row block in order of columns, then rows. False: a row has more than kMostRestOfRow.
  static bool sort(uint64_t first, uint64_t end, const uint32_t* begin, Outlier* out);

  /// Upper estimate of the memory that so many take.
  static uint64_t bytes(const IntegerForm& form, uint64_t tile_cols, uint32_t num_workers);

 private:
  struct Run {
    uint32_t row_block;
    uint32_t count;
  };
  /// Deques grow in small pieces: they take no more than what lies in them.
  struct alignas(64) List {
    std::deque<Outlier> outliers;
    std::deque<Run> runs;
    uint32_t in_run = 0;
  };

  const uint64_t most_;
  std::atomic<uint64_t> count_{0};
  std::vector<List> lists_;  ///< [worker][i]
};

}  // namespace nwc
