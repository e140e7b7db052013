#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/encode/synthetic_codec.h"
#include "trainer/search/rans_encode.h"

namespace nwc {
namespace {

ValueHistogram gaussian(double sigma, size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> gauss(0, sigma);
  ValueHistogram h;
  for (size_t i = 0; i < count; ++i) h.add(static_cast<int16_t>(std::lround(gauss(random))));
  return h;
}

double cost(std::span<const double> counts, std::span<const uint16_t> freq) {
  double bits = 0;
  for (size_t i = 0; i < counts.size(); ++i) bits -= counts[i] * std::log2(freq[i] / 4096.0);
  return bits;
}

TEST(EntropyFit, NormalizationIsOptimalForThreeSymbols) {
  const std::vector<std::vector<double>> cases = {{1, 2, 3}, {1e6, 1, 0},     {0, 0, 7},
                                                  {5, 5, 5}, {1, 4095, 4096}, {0.3, 0.3, 1e-9}};
  for (const auto& counts : cases) {
    const std::vector<uint16_t> freq = normalize_frequencies(counts);
    ASSERT_EQ(std::accumulate(freq.begin(), freq.end(), 0), 4096);
    double least = INFINITY;
    for (uint16_t a = 1; a < 4095; ++a) {
      for (uint16_t b = 1; a + b < 4096; ++b) {
        const uint16_t f[3] = {a, b, static_cast<uint16_t>(4096 - a - b)};
        least = std::min(least, cost(counts, f));
      }
    }
    EXPECT_NEAR(cost(counts, freq), least, 1e-6 * (1 + least));
  }
}

TEST(EntropyFit, DegenerateCountsGiveValidFrequencies) {
  EXPECT_EQ(normalize_frequencies(std::vector<double>{0}), (std::vector<uint16_t>{4096}));
  const std::vector<uint16_t> f = normalize_frequencies(std::vector<double>(128, 0.0));
  EXPECT_EQ(std::accumulate(f.begin(), f.end(), 0), 4096);
  for (uint16_t v : f) EXPECT_GE(v, 1);
}

TEST(EntropyFit, TablesAreNearTheEntropyAtEveryWidth) {
  for (const double sigma : {0.3, 1.0, 4.0, 20.0, 100.0, 2000.0}) {
    const ValueHistogram h = gaussian(sigma, 200000, 7);
    const FrequencyTable t = fit_table(h);
    EXPECT_LE(t.freq.size(), 128u);
    EXPECT_EQ(std::accumulate(t.freq.begin(), t.freq.end(), 0), 4096);
    // The shape inside a bin is lost to raw bits, and wide sigmas are undersampled; 1 % of a bit or so.
    const double entropy = sigma < 10 ? h.ideal_bits() / h.total() : std::log2(sigma * std::sqrt(2 * M_PI * M_E));
    EXPECT_NEAR(table_bits(t, h) / h.total(), entropy, 0.03) << sigma;
    EXPECT_GE(table_bits(t, h), h.ideal_bits() - 1e-6);
  }
}

TEST(EntropyFit, FarOutliersAreEscaped) {
  ValueHistogram h = gaussian(3, 100000, 8);
  const double before = table_bits(fit_table(h), h);
  h.add(32767);
  h.add(-32768);
  const FrequencyTable t = fit_table(h);
  EXPECT_EQ(t.raw_bits, 0);
  EXPECT_LT(table_bits(t, h), before + 200);
}

TEST(EntropyFit, CostsAgreeWithTableBits) {
  const ValueHistogram h = gaussian(300, 20000, 9);
  const FrequencyTable t = fit_table(h);
  const TableCosts costs(std::span<const FrequencyTable>(&t, 1));
  double bits = 0;
  for (size_t i = 0; i < h.counts().size(); ++i)
    bits += h.counts()[i] * costs.bits(0, h.first() + static_cast<int32_t>(i));
  EXPECT_NEAR(bits, table_bits(t, h), 1e-3 * bits);
}

TEST(EntropyFit, EmptyHistogramGivesATableForZeros) {
  const FrequencyTable t = fit_table({});
  ValueHistogram zero;
  zero.add(0);
  EXPECT_LT(table_bits(t, zero), 0.001);
}

TEST(EntropyFit, ClustersFindTheTrueGroups) {
  std::vector<ValueHistogram> contexts;
  for (uint32_t i = 0; i < 30; ++i) contexts.push_back(gaussian(i % 3 == 0 ? 1 : i % 3 == 1 ? 3 : 9, 20000, i));
  contexts.insert(contexts.begin() + 4, ValueHistogram());
  const TableClusters c = cluster_tables(contexts, 1024, 600);
  EXPECT_EQ(c.tables.size(), 3u);
  EXPECT_EQ(c.table_of_context.size(), 31u);
  EXPECT_EQ(c.table_of_context[4], c.table_of_context[3]);
  EXPECT_EQ(c.table_of_context[0], c.table_of_context[3]);
  EXPECT_NE(c.table_of_context[0], c.table_of_context[1]);
  EXPECT_EQ(cluster_tables(contexts, 2, 0).tables.size(), 2u);
  EXPECT_EQ(cluster_tables(contexts, 1, 0).tables.size(), 1u);
}

TEST(EntropyFit, NoContextsWithCountsStillGiveOneTable) {
  const std::vector<ValueHistogram> none(5);
  const TableClusters c = cluster_tables(none, 4, 0);
  EXPECT_EQ(c.tables.size(), 1u);
  EXPECT_EQ(c.table_of_context, (std::vector<uint16_t>(5, 0)));
}

TEST(EntropyFit, SyntheticCodecIsValid) {
  const CodecModel codec = testing::synthetic_codec();
  const Status status = validate(codec.record);
  EXPECT_TRUE(status.ok()) << status.message();
}

}  // namespace
}  // namespace nwc
