#include <gtest/gtest.h>

#include "runtime/codec/decode_tables.h"
#include "runtime/codec/tile_stream.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

uint32_t cutoff(const AliasBucket& b) { return b.own >> 12 & 63; }
uint32_t alias(const AliasBucket& b) { return b.own >> 18 & 127; }

void expect_hit(const AliasTable& t, uint32_t slot, uint32_t symbol, uint32_t freq, uint32_t rank) {
  const AliasHit hit = lookup(t, slot);
  EXPECT_EQ(hit.symbol, symbol) << "slot " << slot;
  EXPECT_EQ(hit.freq, freq) << "slot " << slot;
  EXPECT_EQ(hit.rank, rank) << "slot " << slot;
}

// One symbol: buckets 127, 126, ... 1 are filled from it in this order, 32 slots each, from its upper end downwards.
TEST(AliasTable, OneSymbolByHand) {
  const AliasTable t = build_alias_table({4096});
  EXPECT_EQ(cutoff(t.bucket[0]), 32u);
  for (uint32_t i = 1; i < 128; ++i) {
    EXPECT_EQ(cutoff(t.bucket[i]), 0u);
    EXPECT_EQ(alias(t.bucket[i]), 0u);
  }
  expect_hit(t, 0, 0, 4096, 0);
  expect_hit(t, 31, 0, 4096, 31);
  expect_hit(t, 127 * 32, 0, 4096, 4064);  // offset = 4096 - 32
  expect_hit(t, 127 * 32 + 5, 0, 4096, 4069);
  expect_hit(t, 1 * 32 + 31, 0, 4096, 63);  // the last bucket filled: offset = 32
}

// freq 4086, 10. Under: 1, 2 .. 127; over: 0. Symbol 0 fills 127 down to 2 (offset 4086 - 32 * (128 - i)), then has
// 4086 - 126 * 32 = 54 left and gives 22 to bucket 1 (cutoff 10, offset 32), which leaves it with exactly 32.
TEST(AliasTable, TwoSymbolsByHand) {
  const AliasTable t = build_alias_table({4086, 10});
  EXPECT_EQ(cutoff(t.bucket[0]), 32u);
  EXPECT_EQ(cutoff(t.bucket[1]), 10u);
  EXPECT_EQ(alias(t.bucket[1]), 0u);
  expect_hit(t, 32 + 0, 1, 10, 0);
  expect_hit(t, 32 + 9, 1, 10, 9);
  expect_hit(t, 32 + 10, 0, 4086, 32);
  expect_hit(t, 32 + 31, 0, 4086, 53);
  expect_hit(t, 127 * 32 + 3, 0, 4086, 4054 + 3);
  expect_hit(t, 2 * 32, 0, 4086, 54);
}

// freq 40, 20, 4036: over 0, 2; under 1, 3 .. 127. Symbol 2, on top of the stack, fills 127 .. 3 (125 * 32 = 4000), has
// 36 left and gives 12 to bucket 1 (offset 24): it is under now, and symbol 0 gives it 8 (offset 32).
TEST(AliasTable, ThreeSymbolsByHand) {
  const AliasTable t = build_alias_table({40, 20, 4036});
  EXPECT_EQ(cutoff(t.bucket[1]), 20u);
  EXPECT_EQ(alias(t.bucket[1]), 2u);
  EXPECT_EQ(cutoff(t.bucket[2]), 24u);
  EXPECT_EQ(alias(t.bucket[2]), 0u);
  expect_hit(t, 1 * 32 + 19, 1, 20, 19);
  expect_hit(t, 1 * 32 + 20, 2, 4036, 24);
  expect_hit(t, 2 * 32 + 23, 2, 4036, 23);
  expect_hit(t, 2 * 32 + 24, 0, 40, 32);
  expect_hit(t, 2 * 32 + 31, 0, 40, 39);
  expect_hit(t, 3 * 32, 2, 4036, 36);
}

TEST(AliasTable, EveryRankOnceAndAsTheReference) {
  for (const uint32_t n : {1u, 2u, 3u, 31u, 64u, 127u, 128u}) {
    for (const double sigma : {0.1, 1.0, 5.0, 40.0}) {
      const std::vector<uint16_t> freq = reference::gaussian_frequencies(n, sigma);
      const AliasTable t = build_alias_table(freq);
      const reference::SlotMap map(freq);
      for (uint32_t slot = 0; slot < 4096; ++slot) {
        const AliasHit hit = lookup(t, slot);
        ASSERT_LT(hit.symbol, n);
        ASSERT_EQ(hit.freq, freq[hit.symbol]);
        ASSERT_LT(hit.rank, hit.freq);
        ASSERT_EQ(map.slot(hit.symbol, hit.rank), slot);
      }
    }
  }
}

TEST(DecodeTables, DescribesLevels) {
  reference::CodecOptions options;
  options.max_raw_bits = 0;
  CodecRecord codec = reference::make_codec(options, 1);
  codec.tables[1].raw_bits = 3;
  for (uint32_t c = 0; c < 16; ++c) {
    codec.context_map[c] = 4;
    codec.context_map[16 + c] = static_cast<uint16_t>(c % 2);
    codec.context_map[32 + c] = static_cast<uint16_t>(c == 7 ? 3 : 2);
  }
  const DecodeTables d = build_decode_tables(codec);
  EXPECT_EQ(d.alias.size(), codec.tables.size());
  EXPECT_EQ(d.packed.size(), codec.tables.size() * 128);
  // Which contexts of 32 columns have raw bits.
  std::vector<ColumnGroup> groups;
  std::vector<uint8_t> level(96, 0);
  level[40] = 1;
  level[95] = 2;
  build_column_groups(d, nullptr, level.data(), nullptr, 96, ~0u, &groups);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].raw_contexts, 0u);
  EXPECT_EQ(groups[1].raw_contexts, 0xaaaau);
  EXPECT_EQ(groups[2].raw_contexts, 0u);
  for (size_t i = 0; i < codec.tables.size(); ++i) {
    EXPECT_EQ(static_cast<int16_t>(d.info[i] & 0xffff), codec.tables[i].min);
    EXPECT_EQ(d.info[i] >> 16 & 15, codec.tables[i].raw_bits);
    EXPECT_EQ(d.info[i] >> 24, codec.tables[i].freq.size() - 1);
  }
}

}  // namespace
}  // namespace nwc
