#include <gtest/gtest.h>

#include "runtime/codec/tile_decode.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::CodecOptions;

std::vector<CpuLevel> levels_here() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level : kCpuLevels) {
    if (level <= detect_cpu_level()) levels.push_back(level);
  }
  return levels;
}

struct Tile {
  TileGeometry geometry;
  std::vector<uint8_t> level, row_class;
  std::vector<int16_t> values;
  std::vector<uint8_t> payload;
};

// A tensor of one tile is a tile.
Tile make_tile(const CodecRecord& codec, uint32_t height, uint32_t width, uint32_t seed, bool row_classes = false,
               bool free_states = false) {
  reference::TensorOptions options;
  options.shape = {height, width};
  options.tile_rows = 4096;
  options.tile_cols = 512;
  options.row_classes = row_classes;
  options.free_states = free_states;
  reference::TestTensor t = reference::make_tensor(codec, options, seed);
  Tile tile;
  tile.geometry = tile_grid(t.record).tile(0);
  tile.level = t.level;
  tile.row_class = t.row_class;
  tile.values = t.values;
  tile.payload.assign(t.blob.begin() + t.record.side_size + 8, t.blob.end());
  return tile;
}

Status decode(CpuLevel cpu, const DecodeTables& tables, const Tile& tile, Bytes payload, std::vector<int16_t>* out) {
  out->assign(tile.values.size(), -1);
  return decode_tile(cpu, tables, tile.geometry, tile.level.data(), tile.row_class, payload, *out);
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
          ++seed;
          size_t size = 0;
          for (const bool free_states : {false, true}) {
            const Tile tile = make_tile(codec, height, width, seed, false, free_states);
            for (const CpuLevel cpu : levels_here()) {
              std::vector<int16_t> out;
              const Status status = decode(cpu, tables, tile, tile.payload, &out);
              ASSERT_TRUE(status.ok()) << cpu_level_name(cpu) << " " << height << "x" << width << ": "
                                       << status.message();
              ASSERT_EQ(out, tile.values) << cpu_level_name(cpu) << " " << height << "x" << width;
            }
            if (free_states) {
              EXPECT_LE(tile.payload.size(), size);
            }
            size = tile.payload.size();
          }
        }
      }
    }
  }
}

TEST(TileDecode, EveryTrellisContextAndCpuLevel) {
  uint32_t seed = 1000;
  for (const uint32_t trellis_bits : {0u, 2u, 3u, 4u, 5u, 6u, 8u, 10u, 12u}) {
    for (const bool row_classes : {false, true}) {
      for (const uint32_t raw_bits : {0u, 5u}) {
        for (const uint32_t num_levels : {1u, 4u}) {
          CodecOptions options;
          options.levels = num_levels;
          options.tables = num_levels == 1 ? 3 : 20;
          options.max_raw_bits = raw_bits;
          options.trellis_bits = trellis_bits;
          options.row_classes = row_classes;
          const CodecRecord codec = reference::make_codec(options, ++seed);
          ASSERT_TRUE(validate(codec).ok()) << validate(codec).message();
          const DecodeTables tables = build_decode_tables(codec);
          for (const auto& [height, width] : {std::pair{1u, 1u}, {17u, 33u}, {100u, 60u}, {48u, 32u}}) {
            const Tile tile = make_tile(codec, height, width, ++seed, row_classes && height != 48, num_levels == 4);
            for (const CpuLevel cpu : levels_here()) {
              std::vector<int16_t> out;
              const Status status = decode(cpu, tables, tile, tile.payload, &out);
              ASSERT_TRUE(status.ok()) << cpu_level_name(cpu) << " v = " << trellis_bits << ": " << status.message();
              ASSERT_EQ(out, tile.values) << cpu_level_name(cpu) << " v = " << trellis_bits;
            }
          }
        }
      }
    }
  }
}

// doc/format.md, section 5.6, with v = 2 by hand: states 0 1 2 1 3 2 0 0 1 2 1 2 1 2 1 3.
TEST(TileDecode, TrellisByHand) {
  CodecOptions options;
  options.trellis_bits = 2;
  options.tables = 1;
  CodecRecord codec = reference::make_codec(options, 1);
  codec.tables[0].freq.assign(16, 256);
  codec.tables[0].min = -7;
  const TileGeometry geometry{.row = 0, .col = 0, .height = 16, .width = 1};
  const std::vector<int16_t> k = {1, 2, 0, -3, 5, -1, 4, 1, 100, 0, 0, 0, -32768, -32768, 32767, 32767};
  const std::vector<int16_t> q = {2, 3, 0, -5, 9, -2, 8, 2, 199, 0, 0, 0, 1, 0, -3, -3};
  const uint8_t level = 0;
  const std::vector<uint8_t> payload = reference::TileEncoder(codec).encode(geometry, &level, k.data());
  for (const CpuLevel cpu : levels_here()) {
    std::vector<int16_t> out(16);
    const Status status = decode_tile(cpu, build_decode_tables(codec), geometry, &level, {}, payload, out);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(out, q);
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
  for (const bool free_states : {false, true}) {
    tile.geometry.free_states = free_states;
    tile.payload = reference::TileEncoder(codec).encode(tile.geometry, tile.level.data(), tile.values.data());
    EXPECT_LT(tile.payload.size(), 32u * 4 + 64);
    if (free_states) {
      EXPECT_EQ(tile.payload.size(), 32u * 4) << "the states hold everything";
    }
    for (const CpuLevel cpu : levels_here()) {
      std::vector<int16_t> out;
      ASSERT_TRUE(decode(cpu, tables, tile, tile.payload, &out).ok());
      EXPECT_EQ(out, tile.values);
    }
  }
}

// Whatever the bytes, all levels agree on values or on the kind of error, and no damage decodes in silence: all words
// have to be used and 32 states to come out right.
// With free states that is the CRC-32's work alone.
class DamagedPayloads : public testing::TestWithParam<std::tuple<uint32_t, uint32_t, bool>> {};

TEST_P(DamagedPayloads, AgreeOnTheError) {
  CodecOptions options;
  options.max_raw_bits = std::get<0>(GetParam());
  options.trellis_bits = std::get<1>(GetParam());
  options.row_classes = options.trellis_bits != 0;
  options.varied = false;  // few escapes
  const CodecRecord codec = reference::make_codec(options, 9);
  const DecodeTables tables = build_decode_tables(codec);
  const bool free_states = std::get<2>(GetParam());
  const Tile tile = make_tile(codec, 40, 45, 10, options.row_classes, free_states);
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
  if (!free_states) {
    EXPECT_GT(seen[StatusCode::kChecksum], 0);
  }
  EXPECT_GT(seen[StatusCode::kCorrupt], 0);
  // A flip inside an escape's word changes one value and nothing else: only the tile's CRC-32 tells.
  EXPECT_LT(silent, free_states ? 400 : 40);
}

INSTANTIATE_TEST_SUITE_P(Codecs, DamagedPayloads,
                         testing::Combine(testing::Values(0, 2), testing::Values(0, 3, 8), testing::Bool()));

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
