// Units of integers, packed on every instruction set: the same bytes, which unpack_unit gives back.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "runtime/codec/integer_decode.h"
#include "runtime/codec/integer_outliers.h"
#include "runtime/codec/integer_pack.h"

namespace nwc::test {
namespace {

struct Packed {
  alignas(64) uint8_t unit[kUnitWeights];
  uint32_t over[kChunk];
  bool any = false;
};

Packed packed(CpuLevel level, const LaneValues& values, uint32_t bits) {
  Packed p;
  std::fill(std::begin(p.unit), std::end(p.unit), uint8_t{0xa5});
  std::fill(std::begin(p.over), std::end(p.over), 0xdeadbeefu);
  p.any = unit_packer(level)(values, bits, p.unit, p.over);
  return p;
}

/// Integers about as large as the bits, of which one in `rare` is of any size.
LaneValues random_values(std::mt19937& random, uint32_t bits, uint32_t rare) {
  LaneValues values;
  const int32_t bias = integer_bias(bits);
  for (auto& row : values.q) {
    for (int16_t& q : row) {
      const int32_t fits = static_cast<int32_t>(random() % static_cast<uint32_t>(2 * bias)) - bias;
      q = static_cast<int16_t>(rare != 0 && random() % rare == 0 ? static_cast<int32_t>(random()) : fits);
    }
  }
  return values;
}

void check(const LaneValues& values, uint32_t bits) {
  const int32_t bias = integer_bias(bits);
  bool any = false;
  for (const CpuLevel level : kCpuLevels) {
    if (level > detect_cpu_level()) continue;
    const Packed p = packed(level, values, bits);
    uint8_t bytes[kUnitWeights];
    unpack_unit(bits, p.unit, bytes);
    for (uint32_t r = 0; r < kChunk; ++r) {
      for (uint32_t l = 0; l < kUnitCols; ++l) {
        const int32_t q = values.q[r][l], held = std::clamp(q, -bias, bias - 1);
        ASSERT_EQ(bytes[64 * (l / 4) + 4 * r + l % 4] - bias, held)
            << cpu_level_name(level) << ", row " << r << ", " << l;
        if (p.any) {
          ASSERT_EQ(p.over[r] >> l & 1u, q != held ? 1u : 0u) << cpu_level_name(level) << ", row " << r << ", " << l;
        }
        any |= q != held;
      }
    }
    ASSERT_EQ(p.any, any) << cpu_level_name(level);
    if (!any) {
      ASSERT_EQ(p.over[0], 0xdeadbeefu) << cpu_level_name(level);
    }
    for (uint32_t i = unit_bytes(bits); i < kUnitWeights; ++i) ASSERT_EQ(p.unit[i], 0xa5) << "beyond the unit";
  }
}

TEST(IntegerPack, EveryLevelHoldsWhatFitsAndSaysWhatDoesNot) {
  std::mt19937 random(3);
  for (const uint8_t bits : kIntegerBits) {
    for (const uint32_t rare : {0u, 1u, 10u, 400u}) {
      for (uint32_t i = 0; i < 50; ++i) check(random_values(random, bits, rare), bits);
    }
  }
}

TEST(IntegerPack, OneIntegerAtTheEdgeOrBeyondItIsFoundAnywhere) {
  for (const uint8_t bits : kIntegerBits) {
    const int32_t bias = integer_bias(bits);
    for (const int32_t q : {-bias, bias - 1, -bias - 1, bias, -32768, 32767, 32767 - bias, 32768 - bias}) {
      for (uint32_t at = 0; at < kUnitWeights; at += 7) {
        LaneValues values{};
        values.q[at / kUnitCols][at % kUnitCols] = static_cast<int16_t>(q);
        check(values, bits);
      }
    }
  }
}

// Products add up outliers in 32 bits, so that files whose sums do not fit are left to other forms.
TEST(IntegerOutliers, RowsOfLargeRestsAreNoticed) {
  std::vector<Outlier> outliers;
  const uint32_t begin[] = {0, 24, 48};
  for (uint32_t i = 0; i < 24; ++i) outliers.emplace_back(200 - i, i % 3, kMostRest);
  for (uint32_t i = 0; i < 24; ++i) outliers.emplace_back(104 + i, 5, i % 2 == 0 ? kMostRest : -kMostRest);
  EXPECT_TRUE(FoundOutliers::sort(0, 1, begin, outliers.data()));
  EXPECT_EQ(outliers[0].column(), 177u);
  EXPECT_FALSE(FoundOutliers::sort(1, 2, begin, outliers.data())) << "24 of one row in a block";
  for (uint32_t i = 24; i < 48; ++i) outliers[i] = Outlier(116 + i - 24, 5, kMostRest);
  EXPECT_TRUE(FoundOutliers::sort(0, 2, begin, outliers.data())) << "12 each in two blocks";
}

}  // namespace
}  // namespace nwc::test
