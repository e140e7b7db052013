#include <gtest/gtest.h>

#include <cmath>

#include "tests/encode/synthetic_codec.h"
#include "trainer/nn/random.h"
#include "trainer/plan/codec_ladder.h"
#include "trainer/search/latent_search.h"

namespace nwc {
namespace {

struct Fixture {
  explicit Fixture(uint32_t trellis_bits, double price)
      : ladder(make_ladder(testing::synthetic_codec(), {.trellis_bits = trellis_bits, .row_classes = true})),
        costs(ladder.record),
        search(ladder.record, costs, price),
        lambda(price) {}

  /// Cost of coding u as q, infinite where the trellis has no such path.
  double cost(uint8_t level, std::span<const float> u, std::span<const uint8_t> context, std::span<const float> weight,
              std::span<const int16_t> q) const {
    const Trellis* trellis = find_trellis(ladder.record.trellis_bits);
    uint16_t state = 0;
    double sum = 0;
    for (size_t i = 0; i < u.size(); ++i) {
      const uint32_t bank = trellis != nullptr ? Trellis::bank(state) : 0;
      const int16_t k = trellis != nullptr ? trellis_value(q[i], bank) : q[i];
      if (trellis != nullptr && trellis_index(k, bank) != q[i]) return INFINITY;
      const double e = u[i] - search.dequantize(level, q[i]);
      sum += weight[i] * e * e + lambda * costs.bits(level, context[i], bank, k);
      if (trellis != nullptr) state = trellis->next(state, k);
    }
    return sum;
  }

  CodecModel ladder;
  TableCosts costs;
  LatentSearch search;
  double lambda;
};

std::vector<float> gaussian(size_t count, double deviation, uint64_t seed) {
  Random random({seed});
  std::vector<float> out(count);
  for (float& v : out) v = static_cast<float>(deviation * random.normal());
  return out;
}

/// The least cost over all paths with |q| <= limit, by trying them all.
double exhaustive(const Fixture& s, uint8_t level, std::span<const float> u, std::span<const uint8_t> context,
                  std::span<const float> weight, int16_t limit) {
  std::vector<int16_t> q(u.size(), static_cast<int16_t>(-limit));
  double best = INFINITY;
  for (;;) {
    best = std::min(best, s.cost(level, u, context, weight, q));
    size_t i = 0;
    while (i < q.size() && ++q[i] > limit) q[i++] = static_cast<int16_t>(-limit);
    if (i == q.size()) return best;
  }
}

TEST(LatentSearch, FindsTheBestOfAllPaths) {
  for (const uint32_t bits : {0u, 2u, 3u, 4u}) {
    for (const double lambda : {0.0, 0.1}) {
      Fixture s(bits, lambda);
      for (uint64_t seed = 0; seed < 12; ++seed) {
        const std::vector<float> u = gaussian(5, 1.1, 10 + seed);
        const std::vector<uint8_t> context = {8, 9, 3, 0, 8};
        const std::vector<float> weight = {1, 1, 0.25f, 2, 1};
        std::vector<int16_t> q(u.size());
        const uint8_t level = 14;
        s.search.search(level, u, context.data(), weight.data(), q.data());
        const double found = s.cost(level, u, context, weight, q);
        ASSERT_TRUE(std::isfinite(found)) << "not a path: bits " << bits << ", seed " << seed;
        const double best = exhaustive(s, level, u, context, weight, 6);
        // Each sample's costs are rounded to a 1024th of the largest weight, 2, on this path and on that one.
        EXPECT_LE(found, best + (bits == 0 ? 1e-4 : 5 * 2.0 / 1024))
            << "bits " << bits << ", lambda " << lambda << ", seed " << seed;
      }
    }
  }
}

TEST(LatentSearch, MoreStatesLeaveLessError) {
  const std::vector<float> u = gaussian(4096, 8, 1);
  const std::vector<uint8_t> context(u.size(), 8);
  const std::vector<float> weight(u.size(), 1.0f);
  // Squared error of one step: scalar 1/12; trellis steps are half as long, so that all rates are alike.
  double before = 4 * 1.0 / 12;
  for (const uint32_t bits : {2u, 3u, 4u, 5u, 6u, 8u, 10u, 12u}) {
    Fixture s(bits, 0);
    std::vector<int16_t> q(u.size());
    s.search.search(30, u, context.data(), weight.data(), q.data());
    double error = 0;
    for (size_t i = 0; i < u.size(); ++i)
      error += std::pow(u[i] - s.search.dequantize(30, q[i]), 2) / static_cast<double>(u.size());
    EXPECT_LT(error, before * 1.01) << bits;
    if (bits == 2) {
      EXPECT_LT(error, 0.29);
    }
    if (bits == 8) {
      EXPECT_LT(error, 0.25);
    }
    EXPECT_TRUE(std::isfinite(s.cost(30, u, context, weight, q))) << bits;
    before = error;
  }
}

TEST(LatentSearch, RowsWithoutWeightCostFewBits) {
  Fixture s(3, 0.1);
  const std::vector<float> u = gaussian(64, 4, 2);
  const std::vector<uint8_t> context(u.size(), 8);
  const std::vector<float> none(u.size(), 0.0f), one(u.size(), 1.0f);
  std::vector<int16_t> q(u.size()), p(u.size());
  s.search.search(22, u, context.data(), none.data(), q.data());
  s.search.search(22, u, context.data(), one.data(), p.data());
  EXPECT_LE(s.cost(22, u, context, none, q), s.cost(22, u, context, none, p));
}

TEST(LatentSearch, HugeLatentsStayInRange) {
  for (const uint32_t bits : {0u, 3u, 8u, 12u}) {
    Fixture s(bits, 0.1);
    const std::vector<float> u = {1e30f, -1e30f, 20000, -20000, 0, 3};
    const std::vector<uint8_t> context(u.size(), 8);
    const std::vector<float> weight(u.size(), 1.0f);
    std::vector<int16_t> q(u.size());
    s.search.search(10, u, context.data(), weight.data(), q.data());
    EXPECT_TRUE(std::isfinite(s.cost(10, u, context, weight, q))) << bits;
    EXPECT_GT(q[0], 10000);
    EXPECT_LT(q[1], -10000);
  }
}

}  // namespace
}  // namespace nwc
