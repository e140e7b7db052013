// Products with integers on every instruction set: the same to the bit, and within the stated bound.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/engine/integer_product.h"
#include "runtime/engine/integer_rates.h"

namespace nwc::test {
namespace {

/// A matrix of any bits, with outliers, that no file needs to have.
struct Synthetic {
  IntegerForm form;
  std::vector<uint8_t> data;
};
Synthetic requantized(uint64_t rows, uint64_t cols, std::mt19937& random) {
  Synthetic s;
  const IntegerForm& f = s.form = requantized_form(rows, cols);
  s.data.resize(f.bytes);
  std::normal_distribution<float> normal;
  for (uint64_t b = 0; b < f.row_blocks(); ++b) {
    uint8_t* block = s.data.data() + b * f.row_block_bytes;
    for (uint64_t i = 0; i < f.block_scales_at(); ++i) block[i] = static_cast<uint8_t>(1 + random() % 255);
    uint16_t* scales = reinterpret_cast<uint16_t*>(block + f.block_scales_at());
    for (uint64_t i = 0; i < uint64_t{f.units()} * kChunk; ++i) scales[i] = f32_to_bf16(std::abs(normal(random)));
  }
  for (uint64_t i = 0; i < rows; ++i) reinterpret_cast<float*>(s.data.data() + f.row_scale_at)[i] = normal(random);
  for (uint64_t j = 0; j < cols; ++j) reinterpret_cast<float*>(s.data.data() + f.factor_at)[j] = normal(random);
  return s;
}

Synthetic synthetic(uint64_t rows, uint64_t cols, std::mt19937& random, bool shrinks = false) {
  Synthetic s;
  IntegerForm& f = s.form;
  f.rows = rows;
  f.cols = cols;
  for (uint64_t j = 0; j < cols; j += kUnitCols) {
    f.bits.push_back(kIntegerBits[random() % 4]);
    f.row_block_bytes += unit_bytes(f.bits.back());
  }
  f.row_scale_at = f.row_blocks() * f.row_block_bytes;
  f.factor_at = f.row_scale_at + align_up(f.row_blocks() * kChunk * 4, 64);
  f.shrinks = shrinks;
  f.shrink_at = f.factor_at + align_up(f.padded_cols() * 4, 64);
  f.begin_at = f.shrink_at + align_up(f.padded_cols() * 4, 64);
  f.outliers_at = f.begin_at + align_up((f.row_blocks() + 1) * 4, 64);
  f.max_outliers = 3 * f.row_blocks();
  f.bytes = f.outliers_at + f.max_outliers * sizeof(Outlier);
  s.data.resize(f.bytes);
  for (uint64_t i = 0; i < f.row_scale_at; ++i) s.data[i] = static_cast<uint8_t>(random());
  std::normal_distribution<float> normal;
  for (uint64_t i = 0; i < rows; ++i) reinterpret_cast<float*>(s.data.data() + f.row_scale_at)[i] = normal(random);
  for (uint64_t j = 0; j < cols; ++j) reinterpret_cast<float*>(s.data.data() + f.factor_at)[j] = normal(random);
  for (uint64_t j = 0; j < cols; ++j) {
    reinterpret_cast<float*>(s.data.data() + f.shrink_at)[j] =
        0.3f * reinterpret_cast<float*>(s.data.data() + f.factor_at)[j];
  }
  for (uint64_t b = 0; b <= f.row_blocks(); ++b)
    reinterpret_cast<uint32_t*>(s.data.data() + f.begin_at)[b] = static_cast<uint32_t>(3 * b);
  for (uint64_t i = 0; i < f.max_outliers; ++i) {
    Outlier& o = reinterpret_cast<Outlier*>(s.data.data() + f.outliers_at)[i];
    const int32_t rest = static_cast<int32_t>(random() % 2000) - 1000;
    o = Outlier(static_cast<uint32_t>(random() % cols), static_cast<uint32_t>(random() % 16), rest);
    const auto before = [](const Outlier& a, const Outlier& b) { return a.column() < b.column(); };
    if (i % 3 == 2) std::sort(&o - 2, &o + 1, before);
  }
  return s;
}

TEST(IntegerProduct, EveryLevelGivesTheSameWithinTheStatedBound) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto runner = make_thread_pool(2);
  struct Case {
    uint32_t rows, cols;
    bool requantized;
  };
  for (const auto& [rows, cols, scaled] : {Case{33, 40, false},
                                           {16, 128, false},
                                           {100, 577, false},
                                           {192, 1536, false},
                                           {33, 40, true},
                                           {16, 128, true},
                                           {100, 577, true},
                                           {192, 1536, true}}) {
    const Synthetic s = scaled ? requantized(rows, cols, random) : synthetic(rows, cols, random, cols % 3 == 1);
    for (const uint32_t tokens : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 19u, 67u}) {
      std::vector<float> x(size_t{tokens} * cols);
      for (float& v : x) v = normal(random) * (random() % 50 == 0 ? 100.0f : 1.0f);
      std::vector<uint8_t> scratch(integer_scratch(cols, tokens) + 64);
      uint8_t* aligned = scratch.data() + (0 - reinterpret_cast<uintptr_t>(scratch.data())) % 64;
      std::vector<float> first;
      for (const CpuLevel level : kCpuLevels) {
        if (level > detect_cpu_level()) continue;
        std::vector<float> y(size_t{tokens} * rows, NAN);
        const IntegerMatrix m{&s.form, s.data.data(), y.data()};
        multiply_integers(level, *runner, {&m, 1}, tokens, x.data(), cols, rows, aligned);
        if (first.empty()) first = y;
        ASSERT_EQ(y, first) << cpu_level_name(level) << ", " << tokens << " tokens";
      }
      const float* factor = reinterpret_cast<const float*>(s.data.data() + s.form.factor_at);
      std::vector<float> w(cols);
      for (uint32_t i = 0; i < rows; ++i) {
        integer_row(s.form, s.data.data(), i, w.data());
        const float scale = reinterpret_cast<const float*>(s.data.data() + s.form.row_scale_at)[i];
        for (uint32_t t = 0; t < tokens; ++t) {
          double exact = 0, bound = 0, sum = 0;
          for (uint32_t begin = 0; begin < cols; begin += kInputBlock) {
            double most = 0, integers = 0;
            for (uint32_t j = begin; j < std::min(cols, begin + kInputBlock); ++j) {
              const double v = double{x[t * cols + j]};
              exact += v * double{w[j]};
              sum += std::abs(v * double{w[j]});
              most = std::max(most, std::abs(v * double{factor[j]}));
              integers += std::abs(double{w[j]} / (double{factor[j]} * double{scale}));
            }
            bound += most * integers / 65536 * std::abs(double{scale});
          }
          ASSERT_NEAR(double{first[t * rows + i]}, exact, bound + 1e-5 * sum) << i;
        }
      }
    }
  }
}

TEST(IntegerProduct, InputsThatAreNotFiniteDoNotVanish) {
  std::mt19937 random(6);
  const auto runner = make_thread_pool(1);
  for (const Synthetic& s : {synthetic(16, 64, random), requantized(16, 64, random)}) {
    std::vector<uint8_t> scratch(integer_scratch(64, 1) + 64);
    uint8_t* aligned = scratch.data() + (0 - reinterpret_cast<uintptr_t>(scratch.data())) % 64;
    for (const float bad : {INFINITY, static_cast<float>(NAN)}) {
      std::vector<float> x(64, 1.0f), y(16);
      x[17] = bad;
      const IntegerMatrix m{&s.form, s.data.data(), y.data()};
      multiply_integers(detect_cpu_level(), *runner, {&m, 1}, 1, x.data(), 64, 16, aligned);
      for (const float v : y) EXPECT_TRUE(std::isnan(v));
    }
    std::vector<float> x(64, 0.0f), y(16, NAN);
    const IntegerMatrix m{&s.form, s.data.data(), y.data()};
    multiply_integers(detect_cpu_level(), *runner, {&m, 1}, 1, x.data(), 64, 16, aligned);
    for (const float v : y) EXPECT_EQ(v, 0.0f);
  }
}

TEST(IntegerRates, AreMeasuredOnceAndAddUp) {
  const auto runner = make_thread_pool(2);
  const IntegerRates rates = measured_integer_rates(detect_cpu_level(), *runner, 1 << 20);
  ASSERT_TRUE(rates.measured());
  for (const double rate : rates.per_second) EXPECT_GT(rate, 0);
  const IntegerRates again = measured_integer_rates(detect_cpu_level(), *runner, 1 << 20);
  EXPECT_TRUE(std::equal(std::begin(rates.per_second), std::end(rates.per_second), again.per_second));
  IntegerForm form;
  form.rows = 20;  // two row blocks
  form.cols = 64;
  form.bits = {4, 8};
  EXPECT_DOUBLE_EQ(product_seconds(form, {{1, 2, 3, 4}}), 32 * 32 / 1.0 + 32 * 32 / 4.0);
}

}  // namespace
}  // namespace nwc::test
