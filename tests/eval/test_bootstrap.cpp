// Errors of means by the block bootstrap.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "trainer/eval/bootstrap.h"

namespace nwc {
namespace {

/// `alike` neighbours have the same value.
std::vector<double> values_in_runs(size_t count, size_t alike, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> gauss(1, 1);
  std::vector<double> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = i % alike == 0 ? gauss(random) : out[i - 1];
  return out;
}

TEST(Bootstrap, BlocksKeepToTheirWindows) {
  const std::vector<uint64_t> long_text = {2047, 2047, 2047, 2047, 300};
  const std::vector<uint64_t> blocks = bootstrap_blocks(long_text);
  EXPECT_EQ(std::accumulate(blocks.begin(), blocks.end(), uint64_t{0}), 4 * 2047 + 300u);
  ASSERT_EQ(blocks.size(), 4 * 8 + 2u);
  EXPECT_EQ(blocks[0], kBootstrapBlock);
  EXPECT_EQ(blocks[7], 2047 - 7 * kBootstrapBlock) << "the rest of the first window";
  EXPECT_EQ(blocks.back(), 300 - kBootstrapBlock);
}

TEST(Bootstrap, ShortTextsAreCutIntoShorterBlocks) {
  const std::vector<uint64_t> text = {640}, tiny = {5};
  EXPECT_EQ(bootstrap_blocks(text), std::vector<uint64_t>(32, 20));
  EXPECT_EQ(bootstrap_blocks(tiny), std::vector<uint64_t>(5, 1));
  EXPECT_TRUE(bootstrap_blocks({}).empty());
}

TEST(Bootstrap, OfIndependentValuesTheErrorIsTheFormulas) {
  const std::vector<double> values = values_in_runs(32768, 1, 1);
  const std::vector<uint64_t> window = {values.size()};
  const MeanWithError e = bootstrap_mean(values, bootstrap_blocks(window));
  const double formula = 1 / std::sqrt(32768.0);
  EXPECT_NEAR(e.mean, std::accumulate(values.begin(), values.end(), 0.0) / 32768, 1e-12);
  EXPECT_NEAR(e.standard_error, formula, 0.25 * formula);  // 128 blocks tell a deviation to 6 %
  EXPECT_NEAR(e.high - e.low, 2 * 1.96 * formula, formula);
  EXPECT_LT(e.low, e.mean);
  EXPECT_GT(e.high, e.mean);
}

TEST(Bootstrap, ValuesThatComeInRunsAreLessCertain) {
  const std::vector<double> values = values_in_runs(32768, 64, 2);
  const std::vector<uint64_t> window = {values.size()};
  const MeanWithError e = bootstrap_mean(values, bootstrap_blocks(window));
  const double formula = std::sqrt(64 / 32768.0);
  EXPECT_NEAR(e.standard_error, formula, 0.25 * formula);
}

TEST(Bootstrap, TheSameValuesHaveTheSameError) {
  const std::vector<double> values = values_in_runs(4000, 3, 3);
  const std::vector<uint64_t> windows = {1500, 1500, 1000};
  const MeanWithError a = bootstrap_mean(values, bootstrap_blocks(windows));
  const MeanWithError b = bootstrap_mean(values, bootstrap_blocks(windows));
  EXPECT_EQ(a.standard_error, b.standard_error);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
}

TEST(Bootstrap, OneValueHasNoError) {
  const std::vector<double> one = {2.5};
  const std::vector<uint64_t> window = {1};
  const MeanWithError e = bootstrap_mean(one, bootstrap_blocks(window));
  EXPECT_EQ(e.mean, 2.5);
  EXPECT_EQ(e.standard_error, 0);
  EXPECT_EQ(e.low, 2.5);
  EXPECT_EQ(e.high, 2.5);
  EXPECT_EQ(bootstrap_mean({}, {}).mean, 0);
}

}  // namespace
}  // namespace nwc
