// Several tiles at once, of one and of several column bands, against the values that were encoded.
#include <gtest/gtest.h>

#include "runtime/codec/tensor_decode.h"
#include "runtime/codec/tile_stream.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::CodecOptions;
using reference::TensorOptions;
using Model = reference::TestModel;

Model make_model(const CodecOptions& options, const std::vector<TensorOptions>& tensors) {
  const CodecRecord codec = reference::make_codec(options, 3);
  std::vector<reference::TestTensor> made;
  uint32_t seed = 40;
  for (TensorOptions t : tensors) {
    t.row_classes = options.row_classes;
    made.push_back(reference::make_tensor(codec, t, ++seed));
  }
  Result<Model> m = reference::make_model(codec, std::move(made));
  EXPECT_TRUE(m.ok()) << m.status().message();
  return std::move(m).value();
}

// At once: 1, 2, 3 and 4 tiles of one band; of bands of different widths; tiles of different heights.
const std::vector<TensorOptions> kShapes = {
    {"one", {40, 64}, 48, 64},       {"two", {90, 64}, 48, 64},    {"three", {130, 64}, 48, 64},
    {"four", {180, 96}, 48, 96},     {"bands", {40, 200}, 48, 64}, {"narrow last", {40, 161}, 48, 32},
    {"low last", {49, 100}, 48, 64}, {"odd", {33, 70}, 32, 32},    {"many", {200, 300}, 32, 32}};

void expect_values(const Model& m) {
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    for (const uint32_t threads : {1u, 3u}) {
      const auto pool = make_thread_pool(threads);
      TensorDecodeOptions options;
      options.cpu = cpu;
      for (size_t t = 0; t < m.tensors.size(); ++t) {
        std::vector<int16_t> values(m.tensors[t].values.size(), int16_t{-77});
        const Status status = decode_tensor_values(*m.file, m.tables, t, values, *pool, options);
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(values == m.tensors[t].values)
            << m.tensors[t].record.name << ", " << cpu_level_name(cpu) << ", " << threads << " threads";
      }
    }
  }
}

TEST(TileWalk, TilesAtOnceGiveTheirValues) {
  for (const uint32_t trellis_bits : {0u, 3u}) {
    for (const bool row_classes : {false, true}) {
      for (const uint32_t raw_bits : {0u, 2u}) {
        CodecOptions options;
        options.max_raw_bits = raw_bits;
        options.trellis_bits = trellis_bits;
        options.row_classes = row_classes;
        expect_values(make_model(options, kShapes));
      }
    }
  }
}

TEST(TileWalk, MoreTablesThanSixteenBitsReach) {
  CodecOptions options;
  options.levels = 40;
  options.trellis_bits = 3;
  options.row_classes = true;
  for (const uint32_t tables : {512u, 513u, 1024u}) {
    options.tables = tables;
    const Model m = make_model(options, {{"few", {40, 64}, 48, 64}, {"many", {200, 300}, 32, 32}});
    ASSERT_EQ(m.tables.alias.size(), tables);
    EXPECT_EQ(lookup_tables(m.tables).wide, tables > 512);
    expect_values(m);
  }
}

TEST(TileWalk, SumsForProductsLikeTheScalarTwin) {
  const CodecRecord codec = reference::make_codec(CodecOptions{}, 3);
  const DecodeTables tables = build_decode_tables(codec);
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  for (const float shrink : {0.0f, 0.2f}) {
    const std::vector<uint8_t> level(70, 1);
    std::vector<ColumnGroup> groups;
    build_column_groups(tables, &codec, level.data(), nullptr, 70, ~0u, &groups);
    alignas(64) LaneValues values;
    for (auto& row : values.q) {
      for (int16_t& q : row) q = static_cast<int16_t>(std::lround(4 * normal(rng)));
    }
    constexpr uint32_t kBatch = 3;
    struct alignas(64) Sums {
      float v[kBatch][kChunk][kNumLanes] = {};
    };
    for (ColumnGroup& group : groups) {
      std::fill(std::begin(group.shrink), std::end(group.shrink), shrink);
      group.any_shrink = shrink != 0;
      alignas(64) float factor[kBatch][kNumLanes] = {};
      for (auto& f : factor) {
        for (uint32_t l = 0; l < group.active; ++l) f[l] = normal(rng);
      }
      Sums before;
      for (auto& of_vector : before.v) {
        for (auto& row : of_vector) {
          for (float& sum : row) sum = normal(rng);
        }
      }
      Sums expected = before;
      lane_kernels(CpuLevel::kScalar).accumulate(group, values, {kBatch, factor[0], expected.v[0][0]});
      for (uint32_t b = 0; b < kBatch; ++b) {
        // By hand, the first row's first sum: of lanes 0 and kSumLanes.
        double sum = group.slot == 0 ? 0 : static_cast<double>(before.v[b][0][0]);
        for (const uint32_t l : {0u, kSumLanes}) {
          const int q = values.q[0][l];
          const double z = q - ((q > 0) - (q < 0)) * static_cast<double>(shrink);
          if (l < group.active) sum += z * static_cast<double>(factor[b][l]);
        }
        EXPECT_NEAR(static_cast<double>(expected.v[b][0][0]), sum, 1e-5);
      }
      for (const CpuLevel cpu : kCpuLevels) {
        if (cpu > detect_cpu_level()) continue;
        Sums sums = before;
        lane_kernels(cpu).accumulate(group, values, {kBatch, factor[0], sums.v[0][0]});
        for (uint32_t b = 0; b < kBatch; ++b) {
          for (uint32_t c = 0; c < kChunk; ++c) {
            for (uint32_t l = 0; l < kSumLanes; ++l)
              EXPECT_NEAR(sums.v[b][c][l], expected.v[b][c][l], 1e-4f) << cpu_level_name(cpu);
          }
        }
      }
    }
  }
}

TEST(TileWalk, ColumnGroupsOfSomeContexts) {
  CodecOptions options;
  options.levels = 5;
  options.tables = 40;
  options.trellis_bits = 3;
  options.row_classes = true;
  options.max_raw_bits = 3;
  const CodecRecord codec = reference::make_codec(options, 3);
  const DecodeTables tables = build_decode_tables(codec);
  std::vector<uint8_t> level(45);
  std::vector<float> scale(level.size());
  for (size_t i = 0; i < level.size(); ++i)
    level[i] = static_cast<uint8_t>(i * i % 5), scale[i] = 1 + 0.5f * static_cast<float>(i);
  for (const uint32_t contexts : {0xffffu, 0x1u, 0x8022u}) {
    std::vector<ColumnGroup> groups;
    build_column_groups(tables, &codec, level.data(), scale.data(), static_cast<uint32_t>(level.size()), contexts,
                        &groups);
    ASSERT_EQ(groups.size(), 2u);
    for (const ColumnGroup& g : groups) {
      EXPECT_EQ(g.active, g.slot == 0 ? 32u : 13u);
      uint32_t raw = 0;
      for (uint32_t l = 0; l < kNumLanes; ++l) {
        const uint32_t column = g.slot * kNumLanes + std::min(l, g.active - 1);
        EXPECT_EQ(g.level[l], level[column]);
        EXPECT_EQ(g.scale[l], scale[column]);
        EXPECT_EQ(g.step[l], codec.step[level[column]]);
        for (uint32_t c = 0; c < kNumContexts; ++c) {
          for (uint32_t bank = 0; (contexts >> c & 1u) != 0 && bank < 2; ++bank) {
            const uint16_t table = codec.table_of(level[column], c, bank);
            EXPECT_EQ(g.table[bank][c][l], table);
            EXPECT_EQ(g.min[bank][c][l], codec.tables[table].min);
            EXPECT_EQ(g.raw_bits[bank][c][l], codec.tables[table].raw_bits);
            raw |= uint32_t{codec.tables[table].raw_bits != 0} << c;
          }
        }
      }
      EXPECT_EQ(g.raw_contexts, raw);
      EXPECT_EQ(g.any_raw_bits, raw != 0);
    }
  }
}

}  // namespace
}  // namespace nwc
