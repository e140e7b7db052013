// The tiled factorization against Eigen's, at sizes on both sides of a tile's.
#include <gtest/gtest.h>

#include <Eigen/Cholesky>
#include <cstring>

#include "trainer/linalg/tiled_cholesky.h"
#include "trainer/nn/random.h"

namespace nwc {
namespace {

/// A random second moment, with something added to its diagonal.
Eigen::MatrixXd random_moment(size_t n, double added) {
  Random random({n});
  Eigen::MatrixXd x(n, n + 8);
  for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  Eigen::MatrixXd out = x * x.transpose() / static_cast<double>(n);
  out.diagonal().array() += added;
  return out;
}

TiledLower tiled(const Eigen::MatrixXd& m, Runner& runner) {
  TiledLower out(static_cast<size_t>(m.rows()));
  out.for_each_tile(runner, [&](TiledLower::Span rows, TiledLower::Span columns) {
    for (size_t c = columns.begin; c < columns.end; ++c) {
      for (size_t r = std::max(rows.begin, c); r < rows.end; ++r)
        out.at(r, c) = m(static_cast<Eigen::Index>(r), static_cast<Eigen::Index>(c));
    }
  });
  return out;
}

class TiledCholesky : public ::testing::TestWithParam<size_t> {};

TEST_P(TiledCholesky, IsEigensFactor) {
  const size_t n = GetParam();
  const Eigen::MatrixXd m = random_moment(n, 0.1);
  const auto runner = make_thread_pool(2);
  TiledLower l = tiled(m, *runner);
  ASSERT_TRUE(l.factor(*runner));
  const Eigen::MatrixXd expected = m.llt().matrixL();
  double worst = 0;
  for (size_t c = 0; c < n; ++c) {
    for (size_t r = c; r < n; ++r)
      worst =
          std::max(worst, std::abs(l.at(r, c) - expected(static_cast<Eigen::Index>(r), static_cast<Eigen::Index>(c))));
  }
  EXPECT_LT(worst, 1e-11);
}

TEST_P(TiledCholesky, IsTheSameAtAnyNumberOfThreads) {
  const size_t n = GetParam();
  const Eigen::MatrixXd m = random_moment(n, 0.1);
  const auto one = make_thread_pool(1);
  TiledLower expected = tiled(m, *one);
  ASSERT_TRUE(expected.factor(*one));
  for (const uint32_t threads : {2u, 3u, 5u}) {
    const auto runner = make_thread_pool(threads);
    TiledLower l = tiled(m, *runner);
    ASSERT_TRUE(l.factor(*runner));
    for (size_t c = 0; c < n; ++c) {
      for (size_t r = c; r < n; ++r) ASSERT_EQ(l.at(r, c), expected.at(r, c)) << r << ", " << c;
    }
  }
}

TEST_P(TiledCholesky, SaysWhatIsNotPositiveDefinite) {
  const size_t n = GetParam();
  const auto runner = make_thread_pool(2);
  for (const size_t where : {size_t{0}, n / 2, n - 1}) {
    Eigen::MatrixXd m = random_moment(n, 0.1);
    m(static_cast<Eigen::Index>(where), static_cast<Eigen::Index>(where)) = -1;
    TiledLower l = tiled(m, *runner);
    EXPECT_FALSE(l.factor(*runner)) << where;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, TiledCholesky, ::testing::Values(1, 7, 255, 256, 257, 530));

}  // namespace
}  // namespace nwc
