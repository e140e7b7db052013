#include <gtest/gtest.h>

#include "host-tools/time_left.h"

namespace nwc::cli {
namespace {

TEST(TimeLeft, FollowsTheRateSinceTheFirstReport) {
  TimeLeft left;
  EXPECT_FALSE(left.report(100, 0));
  EXPECT_FALSE(left.report(101, 0.02));
  EXPECT_DOUBLE_EQ(left.report(110, 0.25).value(), 30);
  EXPECT_DOUBLE_EQ(left.report(120, 0.5).value(), 20);
  EXPECT_FALSE(left.report(140, 1));
}

TEST(TimeLeft, DoesNotCountWhatAnInterruptedRunHadDone) {
  TimeLeft left;
  EXPECT_FALSE(left.report(7, 0.5));
  EXPECT_FALSE(left.report(8, 0.51));
  EXPECT_DOUBLE_EQ(left.report(17, 0.75).value(), 10);
}

}  // namespace
}  // namespace nwc::cli
