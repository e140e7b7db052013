#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "trainer/nn/random.h"
#include "trainer/search/error_feedback.h"

namespace nwc {
namespace {

Runner* runner() {
  static const std::unique_ptr<Runner> two = make_thread_pool(2);
  return two.get();
}

std::vector<float> random_hessian(size_t n, size_t samples) {
  Random random({n, samples});
  std::vector<float> h(n * n, 0.0f), x(n);
  for (size_t s = 0; s < samples; ++s) {
    for (float& v : x) v = static_cast<float>(random.normal());
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) h[i * n + j] += x[i] * x[j] / static_cast<float>(samples);
    }
  }
  return h;
}

TEST(ErrorFeedback, FactorsGiveTheHessianBack) {
  const size_t n = 37;
  const std::vector<float> h = random_hessian(n, 100);
  const Result<FeedbackFactors> f = factor_hessian(h, n, 0, *runner());
  ASSERT_TRUE(f.ok()) << f.status().message();
  for (size_t i = 0; i < n; ++i) {
    EXPECT_GT(f->diagonal[i], 0);
    EXPECT_FLOAT_EQ(f->upper[i * n + i], 1);
    for (size_t j = 0; j < n; ++j) {
      if (j < i) {
        EXPECT_EQ(f->upper[i * n + j], 0);
      }
      double sum = 0;
      for (size_t k = 0; k < n; ++k) sum += double{f->upper[i * n + k]} * f->diagonal[k] * f->upper[j * n + k];
      EXPECT_NEAR(sum, h[i * n + j], 1e-5) << i << ", " << j;
    }
  }
}

TEST(ErrorFeedback, DampingMakesSingularOnesPositive) {
  const size_t n = 24;
  const std::vector<float> h = random_hessian(n, 5);
  const Result<FeedbackFactors> f = factor_hessian(h, n, 0.01, *runner());
  ASSERT_TRUE(f.ok()) << f.status().message();
  const Result<FeedbackFactors> zero = factor_hessian(std::vector<float>(n * n, 0.0f), n, 0.01, *runner());
  ASSERT_TRUE(zero.ok());
  EXPECT_EQ(zero->diagonal, std::vector<double>(n, 1.0));
}

// A run of hours must not end because a matrix is not quite positive.
TEST(ErrorFeedback, DampingIsRaisedUntilItIsEnough) {
  const size_t n = 8;
  std::vector<float> h = random_hessian(n, 20);
  EXPECT_EQ(factor_hessian(h, n, 0.01, *runner())->damping, 0.01);
  h[3 * n + 3] = -0.25f;  // no second moment has that
  const Result<FeedbackFactors> f = factor_hessian(h, n, 0.01, *runner());
  ASSERT_TRUE(f.ok()) << f.status().message();
  EXPECT_GE(f->damping, 0.1);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      double sum = 0;
      for (size_t k = 0; k < n; ++k) sum += double{f->upper[i * n + k]} * f->diagonal[k] * f->upper[j * n + k];
      EXPECT_NEAR(sum, h[i * n + j] + (i == j ? f->added : 0), 1e-5 * (1 + f->added)) << i << ", " << j;
    }
  }
  const std::vector<float> ones(n * n, 1.0f);  // of rank 1, and asked for without damping
  const Result<FeedbackFactors> rounded = factor_hessian(ones, n, 0, *runner());
  ASSERT_TRUE(rounded.ok()) << rounded.status().message();
  EXPECT_GT(rounded->damping, 0);
}

// One large input has most of the trace. What damping adds is in proportion to the others.
TEST(ErrorFeedback, DampingIsOfTheTypicalInput) {
  const size_t n = 8;
  std::vector<float> h = random_hessian(n, 20);
  h[0] += 1000;
  std::vector<float> diagonal;
  for (size_t i = 0; i < n; ++i) diagonal.push_back(h[i * n + i]);
  std::sort(diagonal.begin(), diagonal.end());
  const Result<FeedbackFactors> f = factor_hessian(h, n, 0.01, *runner());
  ASSERT_TRUE(f.ok()) << f.status().message();
  EXPECT_DOUBLE_EQ(f->added, 0.01 * double{diagonal[n / 2]});
  // Dead inputs are damped, too.
  std::fill(h.begin(), h.end(), 0.0f);
  h[0] = 8;
  EXPECT_DOUBLE_EQ(factor_hessian(h, n, 0.01, *runner())->added, 0.01 * 1e-3);
}

TEST(ErrorFeedback, DiagonalOnesNeedNoFactoring) {
  const size_t n = 5;
  std::vector<float> h(n * n, 0.0f);
  for (size_t i = 0; i < n; ++i) h[i * n + i] = static_cast<float>(i);
  const Result<FeedbackFactors> f = factor_hessian(h, n, 0.25, *runner());
  ASSERT_TRUE(f.ok()) << f.status().message();
  EXPECT_EQ(f->damping, 0.25);
  EXPECT_EQ(f->diagonal, (std::vector<double>{0.5, 1.5, 2.5, 3.5, 4.5}));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) EXPECT_EQ(f->upper[i * n + j], i == j ? 1 : 0);
  }
  // The first would have no positive diagonal: damping is raised, as for any other.
  const Result<FeedbackFactors> raised = factor_hessian(h, n, 0, *runner());
  ASSERT_TRUE(raised.ok()) << raised.status().message();
  EXPECT_GT(raised->damping, 0);
  EXPECT_GT(raised->diagonal[0], 0);
  h[1] = h[n] = 0.5f;
  EXPECT_NE(factor_hessian(h, n, 0.25, *runner())->upper[1], 0);
}

TEST(ErrorFeedback, RefusesWhatIsNoHessian) {
  std::vector<float> h = random_hessian(8, 20);
  h[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(factor_hessian(h, 8, 0.01, *runner()).status().code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace nwc
