// The TENSORS section and the geometry of coded tensors (doc/format.md, sections 5.1, 5.2 and 6).
#pragma once

#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/format/constants.h"
#include "runtime/format/dtype.h"

namespace nwc {

enum class Storage : uint8_t { kRaw = 0, kRawDeflated = 1, kCoded = 2 };

struct TensorRecord {
  std::string name;
  Storage storage = Storage::kRaw;
  Dtype dtype = Dtype::kF32;
  bool row_scales = false;
  bool row_classes = false;
  bool free_states = false;  ///< coded: a tile's lanes end in any state (section 5.3)
  uint32_t split = 1;        ///< coded: the first `split` dimensions are the rows of the matrix, the others its columns
  uint32_t group = 0;
  std::vector<uint64_t> shape;
  uint64_t offset = 0;  ///< from the start of DATA
  uint64_t size = 0;    ///< stored bytes
  uint32_t crc = 0;
  // Coded tensors only:
  uint32_t side_size = 0;
  uint32_t tile_rows = 0, tile_cols = 0;
  float scale_base = 0, row_scale_base = 0;

  uint64_t num_elements() const;                                               ///< checked at parsing: cannot overflow
  uint64_t rows() const;                                                       ///< m
  uint64_t cols() const { return rows() == 0 ? 0 : num_elements() / rows(); }  ///< n
  uint64_t raw_bytes() const { return dtype_bytes(dtype, num_elements()); }
};

/// The place of tile `t` of a coded tensor in the matrix, and how it is coded.
struct TileGeometry {
  uint64_t row = 0, col = 0;  ///< first row and column
  uint32_t height = 0, width = 0;
  bool free_states = false;
  uint32_t row_blocks() const { return (height + kChunk - 1) / kChunk; }
  uint32_t lanes() const { return width < kNumLanes ? width : kNumLanes; }
  uint32_t slots() const {
    return (width + kNumLanes - 1) / kNumLanes;
  }  ///< columns per lane, the last one partly used
};
struct TileGrid {
  uint64_t m = 0, n = 0;
  uint32_t tile_rows = 0, tile_cols = 0;
  bool free_states = false;
  uint64_t tiles_per_row() const { return ceil_div(n, tile_cols); }
  uint64_t row_bands() const { return ceil_div(m, tile_rows); }
  uint64_t num_tiles() const { return tiles_per_row() * row_bands(); }
  TileGeometry tile(uint64_t t) const;
};
TileGrid tile_grid(const TensorRecord& record);

Result<std::vector<TensorRecord>> parse_tensor_records(Bytes section, uint64_t file_offset, uint64_t data_size);
std::vector<uint8_t> serialize(const std::vector<TensorRecord>& records);

/// Section 5.1's scale of a code, given the tensor's base.
float scale_from_code(uint8_t code, float base);

}  // namespace nwc
