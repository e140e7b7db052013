#include <gtest/gtest.h>

#include <random>

#include "runtime/codec/tile_decode.h"
#include "tests/encode/synthetic_codec.h"
#include "trainer/search/rans_encode.h"

namespace nwc {
namespace {

std::vector<int16_t> decode(const CodecRecord& codec, const TileGeometry& tile, const std::vector<uint8_t>& level,
                            Bytes payload, Status* status, const std::vector<uint8_t>& row_class = {}) {
  std::vector<int16_t> out(size_t{tile.row_blocks()} * tile.width * kChunk, 77);
  *status = decode_tile(CpuLevel::kScalar, build_decode_tables(codec), tile, level.data(), row_class, payload, out);
  return out;
}

TEST(RansEncode, EveryShapeComesBack) {
  const CodecModel codec = testing::synthetic_codec(24);
  const EncodeTables tables(codec.record);
  std::mt19937 random(1);
  for (const auto& [height, width] :
       {std::pair{1u, 1u}, {16u, 1u}, {17u, 33u}, {128u, 256u}, {48u, 31u}, {16u, 64u}, {5u, 511u}}) {
    TileGeometry tile{.row = 0, .col = 0, .height = height, .width = width};
    std::vector<uint8_t> level(width);
    for (uint8_t& l : level) l = static_cast<uint8_t>(random() % 24);
    std::vector<int16_t> values(size_t{tile.row_blocks()} * width * kChunk);
    std::normal_distribution<double> gauss;
    for (size_t i = 0; i < values.size(); ++i) {
      const double step = codec.record.step[level[i / kChunk % width]];
      values[i] = static_cast<int16_t>(std::lround(gauss(random) / step));
      if (random() % 50 == 0) values[i] = static_cast<int16_t>(random());  // escapes
    }
    for (const bool free_states : {false, true}) {
      tile.free_states = free_states;
      std::vector<uint8_t> payload = {1, 2, 3};
      const uint32_t size = encode_tile(tables, tile, level.data(), nullptr, values, &payload);
      ASSERT_EQ(payload.size(), size + 3);
      Status status;
      EXPECT_EQ(decode(codec.record, tile, level, Bytes(payload).subspan(3), &status), values)
          << height << "x" << width;
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
}

TEST(RansEncode, RawBitsOfEveryWidthComeBack) {
  CodecModel codec = testing::synthetic_codec(8);
  for (uint32_t i = 0; i < 8; ++i) {
    FrequencyTable& t = codec.record.tables[i];
    t.raw_bits = static_cast<uint8_t>(i);
    t.min = -3;
    t.freq = {500, 1000, 1500, 700, 395, 1};
  }
  const EncodeTables tables(codec.record);
  std::mt19937 random(2);
  const TileGeometry tile{.row = 0, .col = 0, .height = 64, .width = 70};
  std::vector<uint8_t> level(70);
  for (size_t i = 0; i < level.size(); ++i) level[i] = static_cast<uint8_t>(i % 8);
  std::vector<int16_t> values(size_t{4} * 70 * kChunk);
  for (int16_t& v : values) v = static_cast<int16_t>(static_cast<int>(random() % 600) - 300);
  values[0] = INT16_MIN;
  values[1] = INT16_MAX;
  std::vector<uint8_t> payload;
  encode_tile(tables, tile, level.data(), nullptr, values, &payload);
  Status status;
  EXPECT_EQ(decode(codec.record, tile, level, payload, &status), values);
  EXPECT_TRUE(status.ok()) << status.message();
}

// A random path through the trellis: any value k in any state gives an index that its bank has.
TEST(RansEncode, EveryTrellisAndContextComesBack) {
  std::mt19937 random(4);
  for (const Trellis& trellis : kTrellises) {
    for (const ContextKind kind : {ContextKind::kChannel, ContextKind::kRowClass}) {
      CodecModel codec = testing::synthetic_codec(8);
      CodecRecord& r = codec.record;
      r.quantizer = Quantizer::kTrellis;
      r.trellis_bits = trellis.bits;
      r.context_kind = kind;
      for (uint32_t i = 0; i < 8; ++i)
        r.tables.push_back({.raw_bits = static_cast<uint8_t>(i), .min = -3, .freq = {500, 1000, 1500, 700, 395, 1}});
      r.context_map.resize(8 * kNumContexts * 2);
      for (uint16_t& t : r.context_map) t = static_cast<uint16_t>(random() % r.tables.size());
      ASSERT_TRUE(validate(r).ok()) << validate(r).message();
      for (const auto& [height, width] : {std::pair{1u, 1u}, {17u, 33u}, {112u, 96u}, {5u, 511u}}) {
        const TileGeometry tile{
            .row = 0, .col = 0, .height = height, .width = width, .free_states = trellis.bits % 2 == 0};
        std::vector<uint8_t> level(width), row_class(tile.row_blocks() * kChunk, 0);
        for (uint8_t& l : level) l = static_cast<uint8_t>(random() % 8);
        for (uint32_t row = 0; row < height; ++row) row_class[row] = static_cast<uint8_t>(random() % kNumContexts);
        std::vector<int16_t> values(row_class.size() * width);
        std::vector<uint16_t> state(width, 0);
        for (size_t i = 0; i < values.size(); ++i) {
          uint16_t& s = state[i / kChunk % width];
          const int range = random() % 50 == 0 ? 16000 : 40;
          const int k = static_cast<int>(random() % static_cast<uint32_t>(2 * range)) - range;
          values[i] = trellis_index(k, Trellis::bank(s));
          s = trellis.next(s, k);
        }
        std::vector<uint8_t> payload;
        encode_tile(EncodeTables(r), tile, level.data(), row_class.data(), values, &payload);
        row_class.resize(height);
        Status status;
        EXPECT_EQ(decode(r, tile, level, payload, &status, row_class), values)
            << int{trellis.bits} << " bits, " << height << "x" << width;
        EXPECT_TRUE(status.ok()) << status.message();
      }
    }
  }
}

TEST(RansEncode, CertainSymbolsCostNothing) {
  CodecModel codec = testing::synthetic_codec(1);
  codec.record.tables[0] = {.raw_bits = 0, .min = 0, .freq = {4095, 1}};
  const TileGeometry tile{.row = 0, .col = 0, .height = 16, .width = 32};
  const std::vector<uint8_t> level(32, 0);
  const std::vector<int16_t> values(32 * kChunk, 0);
  std::vector<uint8_t> payload;
  encode_tile(EncodeTables(codec.record), tile, level.data(), nullptr, values, &payload);
  EXPECT_EQ(payload.size(), 32u * 4);
}

TEST(RansEncode, SizeIsNearTheCostOfTheTables) {
  const CodecModel codec = testing::synthetic_codec(24);
  const TableCosts costs(codec.record);
  std::mt19937 random(3);
  std::normal_distribution<double> gauss;
  const TileGeometry tile{.row = 0, .col = 0, .height = 128, .width = 256};
  const std::vector<uint8_t> level(256, 10);
  std::vector<int16_t> values(size_t{8} * 256 * kChunk);
  double bits = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<int16_t>(std::lround(gauss(random) / codec.record.step[10]));
    bits += costs.bits(10, static_cast<uint32_t>(i % kChunk), 0, values[i]);
  }
  std::vector<uint8_t> payload;
  const double size = encode_tile(EncodeTables(codec.record), tile, level.data(), nullptr, values, &payload);
  EXPECT_GT(size, bits / 8 + 32 * 2);
  EXPECT_LT(size, bits / 8 * 1.001 + 32 * 4 + 8);
}

/// Two bytes a lane, less some five bits: below 2^12 states do not grow in proportion to what a symbol says, since any
/// of its slots may be the first.
TEST(RansEncode, FreeStatesSaveWhatLanesBeganWith) {
  const CodecModel codec = testing::synthetic_codec(24);
  const EncodeTables tables(codec.record);
  std::mt19937 random(5);
  std::normal_distribution<double> gauss;
  TileGeometry tile{.row = 0, .col = 0, .height = 64, .width = 64};
  constexpr int kTiles = 40;
  int64_t saved = 0;
  for (int t = 0; t < kTiles; ++t) {
    const std::vector<uint8_t> level(64, static_cast<uint8_t>(4 + t % 16));
    std::vector<int16_t> values(size_t{4} * 64 * kChunk);
    for (int16_t& v : values) v = static_cast<int16_t>(std::lround(gauss(random) / codec.record.step[level[0]]));
    for (const bool free_states : {false, true}) {
      tile.free_states = free_states;
      std::vector<uint8_t> payload;
      const uint32_t size = encode_tile(tables, tile, level.data(), nullptr, values, &payload);
      saved += free_states ? -int64_t{size} : int64_t{size};
    }
  }
  EXPECT_GT(static_cast<double>(saved) / kTiles, 32 * 10 / 8);
}

}  // namespace
}  // namespace nwc
