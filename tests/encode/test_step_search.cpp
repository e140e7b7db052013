#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "trainer/plan/step_search.h"

namespace nwc {
namespace {

struct Walk {
  double step = 0, error = 0;
  int passes = 0;
  bool ended = false;  ///< the search said that no step comes closer
};

/// Searches as an encoder does that measures `rate` at every step.
Walk walk(StepRange range, double start, double wanted, double slope, const std::function<double(double)>& rate) {
  StepSearch search(range);
  Walk out{.step = search.clamp(start)};
  for (out.passes = 1; out.passes <= 30; ++out.passes) {
    out.error = rate(out.step) - wanted;
    if (std::abs(out.error) < 0.005) return out;
    const std::optional<double> next = search.next(out.step, out.error, slope);
    if (!next) {
      out.ended = true;
      return out;
    }
    EXPECT_GE(*next, range.finest);
    EXPECT_LE(*next, range.coarsest);
    out.step = *next;
  }
  ADD_FAILURE() << "no end after 30 passes at step " << out.step;
  return out;
}

TEST(StepSearch, FollowsTheSlope) {
  const Walk w = walk({-20, 10}, -3, 4, -1, [](double step) { return 2 - step; });
  EXPECT_FALSE(w.ended);
  EXPECT_NEAR(w.step, -2, 0.005);
  EXPECT_LE(w.passes, 2);
}

TEST(StepSearch, FindsTheRateWithAWrongSlope) {
  for (const double slope : {-0.2, -5.0}) {
    const Walk w = walk({-20, 10}, 3, 4, slope, [](double step) { return 2 - step; });
    EXPECT_FALSE(w.ended);
    EXPECT_NEAR(w.step, -2, 0.005);
    EXPECT_LE(w.passes, 16);
  }
}

TEST(StepSearch, GoesToTheFinestStepWhereTheWeightsNeedNoMore) {
  const Walk w = walk({-20, 10}, -3, 4, -1, [](double step) { return std::min(2.1, 2 - step); });
  EXPECT_TRUE(w.ended);
  EXPECT_EQ(w.step, -20);
  EXPECT_LT(w.error, 0);
  EXPECT_LE(w.passes, 4);
}

TEST(StepSearch, GoesToTheCoarsestStepWhereLessIsNotPossible) {
  const Walk w = walk({-20, 10}, -3, 0.01, -1, [](double step) { return std::max(0.1, 2 - step); });
  EXPECT_TRUE(w.ended);
  EXPECT_EQ(w.step, 10);
  EXPECT_GT(w.error, 0);
  EXPECT_LE(w.passes, 8);
}

TEST(StepSearch, HalvesWhatIsLeftAroundAJump) {
  const Walk w = walk({-20, 10}, -3, 4, -1, [](double step) { return step < -1.3 ? 5.0 : 3.0; });
  EXPECT_TRUE(w.ended);
  EXPECT_NEAR(w.step, -1.3, 1.0 / 256);
}

TEST(StepSearch, KnowsNeighboursBetweenWhichTheRateJumps) {
  StepSearch search({-20, 10});
  EXPECT_FALSE(search.between_neighbours());
  search.next(-1.32, 1, -1);
  EXPECT_FALSE(search.between_neighbours()) << "only a step too fine is known";
  search.next(-1.1, -1, -1);
  EXPECT_FALSE(search.between_neighbours()) << "0.22 octaves apart";
  search.next(-1.28, -1, -1);
  EXPECT_TRUE(search.between_neighbours());
}

TEST(StepSearch, EndsWhereTheRateIsNotMonotone) {
  const Walk w =
      walk({-20, 10}, -9, 4, -1, [](double step) { return step > 2 ? 1.0 : 4.06 + 0.01 * std::sin(40 * step); });
  EXPECT_TRUE(w.ended || std::abs(w.error) < 0.005);
  EXPECT_NEAR(w.step, 2, 1.0 / 256);
}

}  // namespace
}  // namespace nwc
