// One tile around the kernels of lane_kernels.h: it begins with the bytes of a payload and ends with a status
// (doc/format.md, sections 5.2 and 5.3). Internal to runtime/codec; the same for all CPU levels.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/codec/lane_kernels.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

inline LookupTables lookup_tables(const DecodeTables& tables) {
  const Trellis none, *trellis = tables.trellis != nullptr ? tables.trellis : &none;
  return {&tables,         tables.packed.data(), tables.trellis != nullptr,
          trellis->on_odd, trellis->parity,      tables.packed.size() > UINT16_MAX + size_t{1}};
}

/// The second index of the context map in the step of a tensor's row. row_class: [m]; rows beyond its end are of class
/// 0.
inline uint8_t context_of(ContextKind kind, std::span<const uint8_t> row_class, uint64_t row) {
  if (kind == ContextKind::kChannel) return static_cast<uint8_t>(row % kChunk);
  return row < row_class.size() ? row_class[row] : uint8_t{0};
}

/// Bit c: some of a tensor's rows, or some of these rows [begin, end) of it, is of context c.
uint32_t contexts_of(ContextKind kind, std::span<const uint8_t> row_class, uint64_t begin, uint64_t end);

/// The columns of a tile, slot by slot. level: [width]; scale: [width], or null (then 1); codec: null sets step to 1
/// and shrink to 0. contexts: bit c for context c; what is known of others is not filled in.
void build_column_groups(const DecodeTables& tables, const CodecRecord* codec, const uint8_t* level, const float* scale,
                         uint32_t width, uint32_t contexts, std::vector<ColumnGroup>* out);

/// One tile's payload, copied into memory that the kernels may overread.
class TileStream {
 public:
  /// Memory for a payload of `size` bytes, to be filled before begin(). Errors: kChecksum, if the tile cannot use so
  /// many.
  Result<MutableBytes> prepare(const TileGeometry& geometry, uint64_t size);
  /// Reads the states. Errors: kTruncated, kCorrupt.
  Status begin();
  /// Sets the contexts of a row block's steps; called before its groups. `row` is the block's first.
  void begin_row_block(ContextKind kind, std::span<const uint8_t> row_class, uint64_t row);
  LaneStates* lanes() { return &lanes_; }
  /// Whether kernels have read beyond the payload. The caller asks after every group.
  bool ran_out() const { return lanes_.next > lanes_.end; }
  /// Checks that the payload is used up; called after the last group. Errors: kTruncated, kChecksum.
  Status finish() const;

 private:
  std::vector<uint8_t> buffer_;
  size_t size_ = 0;
  uint32_t num_lanes_ = 0;
  bool free_states_ = false;
  LaneStates lanes_{};
};

}  // namespace nwc
