// Tiles whose values are known without decoding them, for the start-up self-test of the Vulkan kernels.
#pragma once

#include <array>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

/// One tile of 38 columns: two row blocks, a slot of which only 6 lanes take part. Two levels and four tables: values
/// and escapes, raw bits, a nearly constant table, 128 symbols. Values by formula, as decode_tile gives them;
/// tests/vulkan/test_known_tile.cpp encodes them and compares with the payload.
struct KnownTile {
  TileGrid grid;
  CodecRecord codec;
  std::vector<uint8_t> level, row_class;  ///< [37]; [height], or empty
  std::vector<int16_t> values;
  Bytes payload;  ///< doc/format.md, section 5.3
};
constexpr uint32_t kKnownCols = 38;

/// 32 rows, scalar quantizer, tables by channel.
KnownTile scalar_known_tile();
/// 29 rows, trellis quantizer of 256 states, tables by row class, free states.
KnownTile trellis_known_tile();
/// The tables, the same for both.
std::vector<FrequencyTable> known_tables();

}  // namespace nwc
