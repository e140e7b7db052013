// Every instruction set's dense operations against sums in doubles, on blocks of larger matrices.
#include <gtest/gtest.h>

#include <cmath>

#include "trainer/linalg/dense_kernels.h"
#include "trainer/linalg/multiply.h"
#include "trainer/nn/random.h"

namespace nwc {
namespace {

/// Kernels of the levels that this machine runs; twice the same where there is one set of them.
std::vector<const DenseKernels*> all_kernels() { return {&dense_kernels(CpuLevel::kScalar), &dense_kernels()}; }

RowMatrix<float> random_matrix(Eigen::Index rows, Eigen::Index cols, uint64_t seed) {
  Random random({seed});
  RowMatrix<float> out(rows, cols);
  for (Eigen::Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<float>(random.normal());
  return out;
}

/// c [m][n] of a product over k, as doubles; which factor lies transposed.
RowMatrix<double> expected(Form form, const RowMatrix<float>& a, const RowMatrix<float>& b) {
  const RowMatrix<double> x = a.cast<double>(), y = b.cast<double>();
  if (form == Form::kAB) return x * y;
  if (form == Form::kABt) return x * y.transpose();
  return x.transpose() * y;
}

struct Shape {
  Eigen::Index m, k, n;
};

TEST(DenseKernels, ThoseOfWiderVectorsAreCalledWhereTheProcessorHasThem) {
  EXPECT_EQ(dense_kernels(CpuLevel::kScalar).level, CpuLevel::kScalar);
  EXPECT_LE(dense_kernels().level, detect_cpu_level());
#if defined(__x86_64__)
  EXPECT_EQ(dense_kernels(CpuLevel::kAvx512).level, CpuLevel::kAvx512);
  if (detect_cpu_level() < CpuLevel::kAvx512)
    GTEST_SKIP() << "this machine, or NWC_CPU, has no AVX-512: only the kernels of the trainer's set are tested";
#endif
}

TEST(DenseKernels, ProductsOfBlocks) {
  constexpr Shape kShapes[] = {{1, 1, 1},      {1, 7, 33},     {5, 300, 1}, {33, 70, 49},
                               {64, 129, 200}, {130, 600, 97}, {4, 0, 5}};
  for (const DenseKernels* kernels : all_kernels()) {
    for (const Shape& s : kShapes) {
      for (const Form form : {Form::kAB, Form::kABt, Form::kAtB}) {
        const bool a_lies = form == Form::kAtB, b_lies = form == Form::kABt;
        const RowMatrix<float> a = random_matrix(a_lies ? s.k : s.m, a_lies ? s.m : s.k, 1);
        const RowMatrix<float> b = random_matrix(b_lies ? s.n : s.k, b_lies ? s.k : s.n, 2);
        const RowMatrix<double> product = expected(form, a, b);
        for (const bool add : {false, true}) {
          // Blocks, with numbers around them that nobody may touch.
          RowMatrix<float> wide_a = random_matrix(a.rows() + 2, a.cols() + 3, 3);
          RowMatrix<float> wide_b = random_matrix(b.rows() + 1, b.cols() + 5, 4);
          const RowMatrix<float> before = random_matrix(s.m + 3, s.n + 4, 5);
          RowMatrix<float> wide_c = before;
          wide_a.block(1, 2, a.rows(), a.cols()) = a;
          wide_b.block(1, 4, b.rows(), b.cols()) = b;
          kernels->gemm(form, {&wide_a(1, 2), a.rows(), a.cols(), wide_a.cols()},
                        {wide_b.data() + wide_b.cols() + 4, b.rows(), b.cols(), wide_b.cols()}, add,
                        {&wide_c(2, 1), s.m, s.n, wide_c.cols()});
          for (Eigen::Index r = 0; r < wide_c.rows(); ++r) {
            for (Eigen::Index c = 0; c < wide_c.cols(); ++c) {
              const bool inside = r >= 2 && r < 2 + s.m && c >= 1 && c < 1 + s.n;
              if (!inside) {
                ASSERT_EQ(wide_c(r, c), before(r, c)) << "beside the block";
                continue;
              }
              const double wanted = product(r - 2, c - 1) + (add ? double{before(r, c)} : 0);
              ASSERT_NEAR(double{wide_c(r, c)}, wanted, 2e-6 * static_cast<double>(s.k + 4) + 1e-6)
                  << s.m << " x " << s.k << " x " << s.n << ", form " << static_cast<int>(form);
            }
          }
        }
      }
    }
  }
}

TEST(DenseKernels, TilesOfAFactorization) {
  constexpr Eigen::Index kSize = 70, kRows = 37, kStride = 80;
  Eigen::MatrixXd x = random_matrix(kSize, kSize + 9, 6).cast<double>();
  const Eigen::MatrixXd moment = x * x.transpose() + Eigen::MatrixXd::Identity(kSize, kSize);
  const Eigen::MatrixXd other = random_matrix(kRows, kSize, 7).cast<double>();
  for (const DenseKernels* kernels : all_kernels()) {
    Eigen::MatrixXd l = Eigen::MatrixXd::Zero(kStride, kSize), b = Eigen::MatrixXd::Zero(kStride, kSize);
    l.topRows(kSize) = moment;
    b.topRows(kRows) = other;
    const Tile tile{l.data(), kSize, kSize, kStride}, rows{b.data(), kRows, kSize, kStride};
    ASSERT_TRUE(kernels->potrf(tile));
    const Eigen::MatrixXd lower = l.topRows(kSize).triangularView<Eigen::Lower>();
    EXPECT_LT((lower * lower.transpose() - moment).norm(), 1e-10 * moment.norm());
    kernels->trsm(tile, rows);
    const Eigen::MatrixXd solved = b.topRows(kRows);
    EXPECT_LT((solved * lower.transpose() - other).norm(), 1e-9 * other.norm());
    Eigen::MatrixXd c = Eigen::MatrixXd::Constant(kRows, kRows, 3);
    kernels->tile_gemm(rows, rows, {c.data(), kRows, kRows, kRows});
    EXPECT_LT((c - (Eigen::MatrixXd::Constant(kRows, kRows, 3) - solved * solved.transpose())).norm(), 1e-9);
    l.topRows(kSize) = -moment;
    EXPECT_FALSE(kernels->potrf(tile)) << "not positive definite";
  }
}

TEST(Multiply, TakesBlocksOfBothTypes) {
  const RowMatrix<float> a = random_matrix(9, 20, 8), b = random_matrix(11, 20, 9);
  RowMatrix<float> c = RowMatrix<float>::Constant(9, 30, 2);
  multiply<float>(Form::kABt, a, b, true, c.middleCols(5, 11));
  RowMatrix<double> d = RowMatrix<double>::Constant(9, 30, 2);
  multiply<double>(Form::kABt, a.cast<double>(), b.cast<double>(), true, d.middleCols(5, 11));
  EXPECT_LT((c.cast<double>() - d).norm(), 1e-4);
  multiply<double>(Form::kABt, a.cast<double>(), b.cast<double>(), false, d.middleCols(5, 11));
  EXPECT_LT((d.middleCols(5, 11) - expected(Form::kABt, a, b)).norm(), 1e-12);
  EXPECT_EQ(d(0, 0), 2);
}

}  // namespace
}  // namespace nwc
