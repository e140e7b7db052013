// A tile whose values are known without decoding it, for the start-up self-test of the Vulkan kernels.
#pragma once

#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

/// 32 x 37: two row blocks, a slot of which only 5 lanes take part.
constexpr uint32_t kKnownRows = 32;
constexpr uint32_t kKnownCols = 37;
/// One tile of that size.
TileGrid known_grid();
/// Two levels and four tables: values and escapes, raw bits, a nearly constant table, 128 symbols.
CodecRecord known_codec();
/// [37], each 0 or 1.
std::vector<uint8_t> known_levels();
/// Values by formula, as decode_tile gives them; tests/vulkan/test_known_tile.cpp encodes them and compares with
/// known_payload().
std::vector<int16_t> known_values();
/// The tile's payload (doc/format.md, section 5.3).
Bytes known_payload();

}  // namespace nwc
