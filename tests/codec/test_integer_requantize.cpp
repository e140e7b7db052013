// Rows of 32 weights as 8-bit integers with a scale: the stated bound, and what lies outside of it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "runtime/base/half.h"
#include "runtime/codec/integer_requantize.h"

namespace nwc::test {
namespace {

struct Requantized {
  LaneValues q;
  uint16_t scales[kChunk];
};

Requantized requantized(const LaneWeights& weights, uint32_t columns = kUnitCols) {
  Requantized r;
  requantize_rows(weights, columns, &r.q, r.scales);
  return r;
}

TEST(IntegerRequantize, WeightsAreOffByHalfAScale) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    LaneWeights weights;
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 200) - 100);
    for (auto& row : weights.y) {
      for (float& y : row) y = size * normal(random) * (random() % 100 == 0 ? 50.0f : 1.0f);
    }
    const Requantized got = requantized(weights);
    for (uint32_t r = 0; r < kChunk; ++r) {
      const float scale = bf16_to_f32(got.scales[r]);
      float largest = 0;
      for (const float y : weights.y[r]) largest = std::max(largest, std::abs(y));
      ASSERT_LE(double{scale}, double{largest} / 127 * (1 + 1.0 / 128) * (1 + 1e-6));
      for (uint32_t l = 0; l < kUnitCols; ++l) {
        ASSERT_LE(std::abs(got.q.q[r][l]), 127);
        const double off = double{weights.y[r][l]} - double{scale} * got.q.q[r][l];
        ASSERT_LE(std::abs(off), double{scale} * 0.5 * (1 + 1e-4)) << r << ", " << l;
      }
    }
  }
}

TEST(IntegerRequantize, ColumnsThatRestAreLeftOut) {
  LaneWeights weights;
  for (auto& row : weights.y) {
    for (uint32_t l = 0; l < kUnitCols; ++l) row[l] = l < 5 ? 1.0f - 0.1f * static_cast<float>(l) : 1e30f;
  }
  weights.y[3][31] = std::numeric_limits<float>::quiet_NaN();
  const Requantized got = requantized(weights, 5);
  for (uint32_t r = 0; r < kChunk; ++r) {
    EXPECT_LT(bf16_to_f32(got.scales[r]), 1.0f / 126);
    for (uint32_t l = 0; l < kUnitCols; ++l) EXPECT_EQ(got.q.q[r][l] != 0, l < 5);
  }
}

TEST(IntegerRequantize, RowsOfNoNumbersZerosAndSmallestNumbers) {
  LaneWeights weights{};
  weights.y[1][7] = std::numeric_limits<float>::infinity();
  weights.y[2][7] = std::numeric_limits<float>::quiet_NaN();
  weights.y[3][7] = std::numeric_limits<float>::denorm_min();
  weights.y[4][7] = -1e-38f;
  weights.y[4][8] = 1e-39f;
  weights.y[5][7] = -std::numeric_limits<float>::max();
  const Requantized got = requantized(weights);
  EXPECT_EQ(got.scales[0], 0);
  EXPECT_TRUE(std::isnan(bf16_to_f32(got.scales[1])));
  EXPECT_TRUE(std::isnan(bf16_to_f32(got.scales[2])));
  for (const uint32_t r : {0u, 1u, 2u, 3u}) EXPECT_EQ(got.q.q[r][7], 0);
  const double scale = double{bf16_to_f32(got.scales[4])};
  EXPECT_GT(scale, 0);
  EXPECT_NEAR(scale * got.q.q[4][7], -1e-38, scale / 2);
  EXPECT_NEAR(scale * got.q.q[4][8], 1e-39, scale / 2);
  EXPECT_TRUE(std::isfinite(bf16_to_f32(got.scales[5])));
  EXPECT_LE(got.q.q[5][7], -126);
}

}  // namespace
}  // namespace nwc::test
