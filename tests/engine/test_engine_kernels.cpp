// The SIMD twins against the scalar table, with sizes that leave every kind of remainder.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc {
namespace {

std::vector<CpuLevel> twins() {
  std::vector<CpuLevel> levels;
  for (CpuLevel l : kCpuLevels) {
    if (l != CpuLevel::kScalar && l <= detect_cpu_level()) levels.push_back(l);
  }
  return levels;
}

std::vector<float> random_floats(size_t n, uint32_t seed, float deviation = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

/// Bytes of the weights in a dtype, and what they are worth in f32.
std::vector<uint8_t> store_as(Dtype dtype, std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * dtype_size(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::kF32) {
      store_le(bytes.data() + 4 * i, values[i]);
    } else {
      const uint16_t h = dtype == Dtype::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      values[i] = dtype == Dtype::kF16 ? f16_to_f32(h) : bf16_to_f32(h);
      store_le(bytes.data() + 2 * i, h);
    }
  }
  return bytes;
}

TEST(EngineKernels, MatmulMatchesDoublePrecisionAtEverySize) {
  auto runner = make_thread_pool(2);
  std::vector<float> scratch(2 * kMatmulScratch);
  std::vector<CpuLevel> levels = twins();
  levels.push_back(CpuLevel::kScalar);
  uint32_t seed = 0;
  for (auto [rows, cols] :
       {std::pair{1u, 1u}, {48u, 16u}, {49u, 17u}, {63u, 513u}, {100u, 530u}, {16u, 7u}, {130u, 64u}}) {
    for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
      std::vector<float> w = random_floats(size_t{rows} * cols, ++seed);
      const std::vector<uint8_t> bytes = store_as(dtype, w);
      for (uint32_t tokens : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 13u, 15u, 31u}) {
        const uint32_t ldx = cols + 3, ldy = rows + 5;
        const std::vector<float> x = random_floats(size_t{tokens} * ldx, ++seed);
        for (CpuLevel level : levels) {
          std::vector<float> y(size_t{tokens} * ldy, 77.0f);
          matmul(kernel_table(level), *runner, tokens, x.data(), ldx, {bytes.data(), dtype, rows, cols}, y.data(), ldy,
                 scratch.data());
          for (uint32_t t = 0; t < tokens; ++t) {
            for (uint32_t r = 0; r < rows; ++r) {
              double expected = 0, size = 0;
              for (uint32_t c = 0; c < cols; ++c) {
                const double p = double{w[size_t{r} * cols + c]} * x[size_t{t} * ldx + c];
                expected += p;
                size += std::abs(p);
              }
              ASSERT_NEAR(y[size_t{t} * ldy + r], expected, 1e-5 * size + 1e-30)
                  << cpu_level_name(level) << " rows " << rows << " cols " << cols << " tokens " << tokens;
            }
            for (uint32_t r = rows; r < ldy; ++r) ASSERT_EQ(y[size_t{t} * ldy + r], 77.0f) << "wrote beyond a row";
          }
        }
      }
    }
  }
}

// Bands of an output layer, tasks of a product: whatever rows go together, each gives the same.
TEST(EngineKernels, ProductsWithOneTokenAreRightAndTheirRowsIndependent) {
  std::vector<CpuLevel> levels = twins();
  levels.push_back(CpuLevel::kScalar);
  for (const uint32_t cols : {5u, 16u, 64u, 71u, 80u, 300u, 576u, 4096u, 4097u, 4104u, 4119u}) {
    constexpr uint32_t kRows = 13;
    for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
      std::vector<float> w = random_floats(size_t{kRows} * cols, cols);
      const std::vector<uint8_t> bytes = store_as(dtype, w);
      const std::vector<float> x = random_floats(cols, cols + 1);
      for (CpuLevel level : levels) {
        const KernelTable& k = kernel_table(level);
        std::vector<float> all(kRows + 1, 77.0f);
        k.gemv(bytes.data(), dtype, kRows, cols, x.data(), all.data());
        EXPECT_EQ(all[kRows], 77.0f);
        for (uint32_t r = 0; r < kRows; ++r) {
          double expected = 0, size = 0;
          for (uint32_t c = 0; c < cols; ++c) {
            expected += double{w[size_t{r} * cols + c]} * x[c];
            size += std::abs(double{w[size_t{r} * cols + c]} * x[c]);
          }
          ASSERT_NEAR(all[r], expected, 1e-5 * size) << cpu_level_name(level) << " row " << r << " cols " << cols;
          float single = 0;
          k.gemv(bytes.data() + size_t{r} * cols * dtype_size(dtype), dtype, 1, cols, x.data(), &single);
          ASSERT_EQ(all[r], single) << cpu_level_name(level) << " row " << r << " cols " << cols;
        }
      }
    }
  }
}

TEST(EngineKernels, GemmDoesNotDependOnHowRowsAreGrouped) {
  for (CpuLevel level : twins()) {
    const KernelTable& k = kernel_table(level);
    constexpr uint32_t kM = 29, kK = 70, kN = 77;
    const std::vector<float> x = random_floats(kM * kK, 1), p = random_floats(kK * kN, 2);
    std::vector<float> all(kM * kN), single(kM * kN);
    k.gemm(kM, kK, kN, x.data(), kK, p.data(), kN, all.data(), kN, false);
    for (uint32_t m = 0; m < kM; ++m) {
      k.gemm(1, kK, kN, x.data() + m * kK, kK, p.data(), kN, single.data() + m * kN, kN, false);
    }
    EXPECT_EQ(all, single);
    std::vector<float> twice(kM * kN);
    k.gemm(kM, 30, kN, x.data(), kK, p.data(), kN, twice.data(), kN, false);
    k.gemm(kM, kK - 30, kN, x.data() + 30, kK, p.data() + 30 * kN, kN, twice.data(), kN, true);
    EXPECT_EQ(all, twice);
  }
}

TEST(EngineKernels, SoftmaxAndSiluMatchDoublePrecision) {
  std::vector<CpuLevel> levels = twins();
  levels.push_back(CpuLevel::kScalar);
  for (CpuLevel level : levels) {
    const KernelTable& k = kernel_table(level);
    for (uint32_t n : {1u, 2u, 7u, 8u, 9u, 15u, 16u, 17u, 33u, 1000u}) {
      const std::vector<float> in = random_floats(n, n, 5);
      std::vector<float> row = in;
      row.push_back(42);
      k.softmax(row.data(), n, 0.7f);
      double total = 0, largest = -1e30;
      for (float v : in) largest = std::max(largest, double{v});
      for (float v : in) total += std::exp(0.7 * (v - largest));
      for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(row[i], std::exp(0.7 * (in[i] - largest)) / total, 1e-6);
      ASSERT_EQ(row[n], 42);

      const std::vector<float> up = random_floats(n, n + 1);
      std::vector<float> gate = random_floats(n, n + 2, 20);
      if (n > 4) gate[1] = -200, gate[2] = 200, gate[3] = 0;
      for (const bool gated : {true, false}) {
        for (const float b : {0.0f, 0.0713548f}) {
          const float a = b == 0 ? 1.0f : 1.5957691f;
          std::vector<float> out = gate;
          out.push_back(42);
          k.sigmoid_gate(out.data(), gated ? up.data() : nullptr, n, a, b);
          for (uint32_t i = 0; i < n; ++i) {
            const double x = double{gate[i]}, z = x * (double{a} + double{b} * x * x);
            const double expected = x / (1 + std::exp(-z)) * (gated ? double{up[i]} : 1.0);
            ASSERT_NEAR(out[i], expected, 2e-6 * std::abs(expected) + 1e-6) << gate[i];
          }
          ASSERT_EQ(out[n], 42);
        }
      }
    }
  }
}

TEST(EngineKernels, HalfConversionsEqualTheScalarOnes) {
  for (CpuLevel level : twins()) {
    const KernelTable& k = kernel_table(level);
    std::vector<uint16_t> halves;
    for (uint32_t h = 0; h < 0x10000; ++h) {
      if ((h & 0x7c00u) != 0x7c00u || (h & 0x3ffu) == 0) halves.push_back(static_cast<uint16_t>(h));
    }
    std::vector<float> a(halves.size()), b(halves.size());
    const uint32_t n = static_cast<uint32_t>(halves.size());
    k.widen_f16(halves.data(), a.data(), n);
    kScalarKernels.widen_f16(halves.data(), b.data(), n);
    EXPECT_EQ(a, b);
    const std::vector<float> values = random_floats(1013, 9, 3000);
    std::vector<uint16_t> c(values.size()), d(values.size());
    k.narrow_f16(values.data(), c.data(), 1013);
    kScalarKernels.narrow_f16(values.data(), d.data(), 1013);
    EXPECT_EQ(c, d);
  }
}

TEST(EngineKernels, SumSquaresMatches) {
  for (CpuLevel level : twins()) {
    for (uint32_t n : {1u, 8u, 16u, 31u, 577u}) {
      const std::vector<float> v = random_floats(n, n);
      const float expected = kScalarKernels.sum_squares(v.data(), n);
      EXPECT_NEAR(kernel_table(level).sum_squares(v.data(), n), expected, 1e-5 * expected);
    }
  }
}

}  // namespace
}  // namespace nwc
