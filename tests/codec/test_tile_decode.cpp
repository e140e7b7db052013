#include <gtest/gtest.h>

#include "runtime/codec/tile_decode.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::CodecOptions;

std::vector<CpuLevel> levels_here() {
  std::vector<CpuLevel> levels = {CpuLevel::kScalar};
  for (const CpuLevel level : {CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (detect_cpu_level() >= level) levels.push_back(level);
  }
  return levels;
}

struct Tile {
  TileGeometry geometry;
  std::vector<uint8_t> level;
  std::vector<int16_t> values;
  std::vector<uint8_t> payload;
};

// A tensor of one tile is a tile.
Tile make_tile(const CodecRecord& codec, uint32_t height, uint32_t width, uint32_t seed) {
  reference::TensorOptions options;
  options.shape = {height, width};
  options.tile_rows = 4096;
  options.tile_cols = 512;
  reference::TestTensor t = reference::make_tensor(codec, options, seed);
  Tile tile;
  tile.geometry = tile_grid(t.record).tile(0);
  tile.level = t.level;
  tile.values = t.values;
  tile.payload.assign(t.blob.begin() + t.record.side_size + 8, t.blob.end());
  return tile;
}

Status decode(CpuLevel cpu, const DecodeTables& tables, const Tile& tile, Bytes payload, std::vector<int16_t>* out) {
  out->assign(tile.values.size(), -1);
  return decode_tile(cpu, tables, tile.geometry, tile.level.data(), payload, *out);
}

TEST(TileDecode, EveryShapeTableAndCpuLevel) {
  uint32_t seed = 0;
  for (const uint32_t raw_bits : {0u, 3u, 7u}) {
    for (const uint32_t num_levels : {1u, 4u, 64u}) {
      CodecOptions options;
      options.levels = num_levels;
      options.tables = num_levels == 64 ? 40 : 7;
      options.max_raw_bits = raw_bits;
      const CodecRecord codec = reference::make_codec(options, ++seed);
      ASSERT_TRUE(validate(codec).ok()) << validate(codec).message();
      const DecodeTables tables = build_decode_tables(codec);
      for (const uint32_t height : {1u, 15u, 16u, 129u}) {
        for (const uint32_t width : {1u, 17u, 32u, 33u, 200u}) {
          const Tile tile = make_tile(codec, height, width, ++seed);
          for (const CpuLevel cpu : levels_here()) {
            std::vector<int16_t> out;
            const Status status = decode(cpu, tables, tile, tile.payload, &out);
            ASSERT_TRUE(status.ok()) << cpu_level_name(cpu) << " " << height << "x" << width << ": "
                                     << status.message();
            ASSERT_EQ(out, tile.values) << cpu_level_name(cpu) << " " << height << "x" << width;
          }
        }
      }
    }
  }
}

TEST(TileDecode, OneSymbolTablesCostNothing) {
  CodecOptions options;
  options.tables = 1;
  CodecRecord codec = reference::make_codec(options, 5);
  codec.tables[0] = {0, 0, {4095, 1}};
  const DecodeTables tables = build_decode_tables(codec);
  Tile tile = make_tile(codec, 64, 64, 6);
  std::fill(tile.values.begin(), tile.values.end(), int16_t{0});
  tile.payload = reference::TileEncoder(codec).encode(tile.geometry, tile.level.data(), tile.values.data());
  EXPECT_LT(tile.payload.size(), 32u * 4 + 64);
  for (const CpuLevel cpu : levels_here()) {
    std::vector<int16_t> out;
    ASSERT_TRUE(decode(cpu, tables, tile, tile.payload, &out).ok());
    EXPECT_EQ(out, tile.values);
  }
}

// Whatever the bytes, all levels agree on values or on the kind of error, and no damage decodes in silence: all words
// have to be used and 32 states to come out right.
TEST(TileDecode, DamagedPayloadsAgreeOnTheError) {
  CodecOptions options;
  options.max_raw_bits = 2;
  options.varied = false;  // few escapes
  const CodecRecord codec = reference::make_codec(options, 9);
  const DecodeTables tables = build_decode_tables(codec);
  const Tile tile = make_tile(codec, 40, 45, 10);
  std::mt19937 rng(11);
  std::map<StatusCode, int> seen;
  int silent = 0;
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<uint8_t> bytes = tile.payload;
    if (trial % 4 == 0) bytes.resize(rng() % bytes.size());
    if (trial % 4 == 1) bytes.insert(bytes.end(), 1 + rng() % 6, uint8_t{0});
    if (trial % 4 >= 2) bytes[rng() % bytes.size()] ^= static_cast<uint8_t>(1 + rng() % 255);
    std::vector<int16_t> expected;
    const Status status = decode(CpuLevel::kScalar, tables, tile, bytes, &expected);
    ++seen[status.code()];
    silent += status.ok() && expected != tile.values;
    for (const CpuLevel cpu : levels_here()) {
      std::vector<int16_t> out;
      ASSERT_EQ(decode(cpu, tables, tile, bytes, &out).code(), status.code()) << "trial " << trial;
      if (status.ok()) {
        ASSERT_EQ(out, expected);
      }
    }
  }
  EXPECT_GT(seen[StatusCode::kTruncated], 0);
  EXPECT_GT(seen[StatusCode::kChecksum], 0);
  EXPECT_GT(seen[StatusCode::kCorrupt], 0);
  // A flip inside an escape's word changes one value and nothing else: only the tile's CRC-32 tells.
  EXPECT_LT(silent, 40);
}

TEST(TileDecode, RefusesMoreBytesThanATileCanUse) {
  const CodecRecord codec = reference::make_codec({}, 1);
  const DecodeTables tables = build_decode_tables(codec);
  const Tile tile = make_tile(codec, 16, 1, 2);
  std::vector<int16_t> out;
  const std::vector<uint8_t> huge(1 << 20);
  EXPECT_EQ(decode(CpuLevel::kScalar, tables, tile, huge, &out).code(), StatusCode::kChecksum);
  EXPECT_EQ(decode(CpuLevel::kScalar, tables, tile, {}, &out).code(), StatusCode::kTruncated);
}

}  // namespace
}  // namespace nwc
