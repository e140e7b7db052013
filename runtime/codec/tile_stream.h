// The frame around lane_kernels.h: from a payload's bytes to decoders of its tile and back to a status
// (doc/format.md, sections 5.2 and 5.3). Internal to runtime/codec; the same for all CPU levels.
#pragma once

#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/codec/lane_kernels.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

inline LookupTables lookup_tables(const DecodeTables& tables) {
  return {&tables, tables.packed.data(), tables.shuffle.data()};
}

/// The columns of a tile, slot by slot. level: [width]; scale: [width], or empty (then 1); codec: null leaves step
/// and shrink unset.
void build_column_groups(const DecodeTables& tables, const CodecRecord* codec, const uint8_t* level, const float* scale,
                         uint32_t width, std::vector<ColumnGroup>* out);

/// One tile's payload, copied into memory that the kernels may overread.
class TileStream {
 public:
  /// Memory for a payload of `size` bytes, to be filled before begin(). Errors: kChecksum, if the tile cannot use so
  /// many.
  Result<MutableBytes> prepare(const TileGeometry& geometry, uint64_t size);
  /// Reads the states. Errors: kTruncated, kCorrupt.
  Status begin();
  LaneStates* lanes() { return &lanes_; }
  /// To be asked after every group.
  bool ran_out() const { return lanes_.next > lanes_.end; }
  /// After the last group. Errors: kTruncated, kChecksum.
  Status finish() const;

 private:
  std::vector<uint8_t> buffer_;
  size_t size_ = 0;
  uint32_t num_lanes_ = 0;
  LaneStates lanes_{};
};

}  // namespace nwc
