// The self-test's committed payload is what the encoder makes of its values, and what the scalar decoder reads.
#include <gtest/gtest.h>

#include "runtime/codec/tile_decode.h"
#include "runtime/decoder/vulkan/known_tile.h"
#include "trainer/search/rans_encode.h"

namespace nwc {
namespace {

std::string as_source(const std::vector<uint8_t>& bytes) {
  std::string text;
  char hex[8];
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::snprintf(hex, sizeof hex, "0x%02x,", bytes[i]);
    text += (i % 20 == 0 ? "\n    " : " ") + std::string(hex);
  }
  return text;
}

class EveryKnownTile : public testing::TestWithParam<KnownTile (*)()> {};
INSTANTIATE_TEST_SUITE_P(Quantizers, EveryKnownTile, testing::Values(&scalar_known_tile, &trellis_known_tile));

TEST_P(EveryKnownTile, CodecIsValid) {
  const Status status = validate(GetParam()().codec);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_P(EveryKnownTile, PayloadIsTheEncodersOutput) {
  const KnownTile tile = GetParam()();
  std::vector<uint8_t> payload, row_class = tile.row_class;
  row_class.resize(tile.grid.tile(0).row_blocks() * kChunk, 0);
  encode_tile(EncodeTables(tile.codec), tile.grid.tile(0), tile.level.data(), row_class.data(), tile.values, &payload);
  EXPECT_EQ(payload, std::vector<uint8_t>(tile.payload.begin(), tile.payload.end()))
      << "known_payload.inc should hold:" << as_source(payload);
}

TEST_P(EveryKnownTile, ScalarDecoderGivesTheValues) {
  const KnownTile tile = GetParam()();
  std::vector<int16_t> values(tile.values.size());
  const Status status = decode_tile(CpuLevel::kScalar, build_decode_tables(tile.codec), tile.grid.tile(0),
                                    tile.level.data(), tile.row_class, tile.payload, values);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(values, tile.values);
}

TEST_P(EveryKnownTile, TakesEveryPath) {
  const KnownTile tile = GetParam()();
  const Trellis* trellis = find_trellis(tile.codec.trellis_bits);
  std::vector<uint16_t> state(kKnownCols, 0);
  int escapes = 0, raw = 0, odd = 0;
  for (size_t i = 0; i < tile.values.size(); ++i) {
    const size_t column = i / kChunk % kKnownCols, row = i / kChunk / kKnownCols * kChunk + i % kChunk;
    const uint32_t row_class = row < tile.row_class.size() ? tile.row_class[row] : 0;
    const uint32_t context = tile.row_class.empty() ? static_cast<uint32_t>(i % kChunk) : row_class;
    const uint32_t bank = Trellis::bank(state[column]);
    const int k = trellis == nullptr ? tile.values[i] : trellis_value(tile.values[i], bank);
    const FrequencyTable& table = tile.codec.tables[tile.codec.table_of(tile.level[column], context, bank)];
    const int s = (k >> table.raw_bits) - table.min;
    const bool escape = s < 0 || s >= static_cast<int>(table.freq.size()) - 1;
    escapes += escape;
    raw += !escape && table.raw_bits != 0;
    odd += bank == 1;
    if (trellis != nullptr) state[column] = trellis->next(state[column], k);
  }
  EXPECT_GT(escapes, 10);
  EXPECT_GT(raw, 100);
  EXPECT_EQ(odd > 300, trellis != nullptr);
}

}  // namespace
}  // namespace nwc
