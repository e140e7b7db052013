// Products of integers on a Vulkan device by dot products of bytes, against the CPU's: the same but for the order in
// which blocks of columns are added up.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "runtime/codec/device_form.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/engine/integer_product.h"
#include "runtime/engine/kernel_answers_vulkan.h"
#include "runtime/engine/layer_ops_self_test_vulkan.h"
#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

/// A tensor of integers with all their bits, as the CPU and as a device has it.
struct Integers {
  Integers(uint64_t rows, uint64_t cols, bool shrinks, uint32_t outliers) : rng(cols) {
    form.rows = rows;
    form.cols = cols;
    form.shrinks = shrinks;
    for (uint64_t u = 0; u < ceil_div(cols, kUnitCols); ++u)
      form.bits.push_back(kIntegerBits[(u * 7 + u / 4) % std::size(kIntegerBits)]);
    form.max_outliers = outliers;
    form.place_parts();
    const DeviceForm device(form);
    memory.resize(device.bytes + 63);
    for (uint64_t i = 0; i < form.row_scale_at; ++i) data()[i] = static_cast<uint8_t>(rng());
    for (uint64_t i = 0; i < form.rows; ++i) put(form.row_scale_at, i, 0.25f + 0.125f * static_cast<float>(rng() % 9));
    for (uint64_t j = 0; j < cols; ++j) {
      const float factor = j % 37 == 5 ? 0.0f : std::ldexp(1.0f, static_cast<int>(rng() % 5) - 2);
      put(form.factor_at, j, factor);
      if (shrinks) put(form.shrink_at, j, factor * 0.3f);
    }
    std::vector<Outlier> all;
    for (uint32_t i = 0; i < outliers; ++i) {
      all.emplace_back(static_cast<uint32_t>(rng() % cols), static_cast<uint32_t>(rng() % kChunk),
                       static_cast<int32_t>(rng() % 4095) - 2047);
    }
    const auto before = [](const Outlier& a, const Outlier& b) { return a.column() < b.column(); };
    std::sort(all.begin(), all.end() - outliers / 8, before);  // of each row block, as the CPU's products want them
    std::sort(all.end() - outliers / 8, all.end(), before);
    std::memcpy(data() + form.outliers_at, all.data(), all.size() * sizeof(Outlier));
    const std::vector<uint32_t> units = device_units(form);
    std::memcpy(data() + device.units_at, units.data(), units.size() * sizeof units[0]);
    // Most outliers are the first row block's, the others the second one's.
    for (uint64_t b = 0; b <= form.row_blocks(); ++b)
      put(form.begin_at, b, b == 0 ? 0u : b == 1 ? outliers - outliers / 8 : outliers);
    for (uint64_t b = 0; b < form.row_blocks(); ++b) {
      put(device.ranges_at, 2 * b, get<uint32_t>(form.begin_at, b));
      put(device.ranges_at, 2 * b + 1, get<uint32_t>(form.begin_at, b + 1));
    }
  }

  uint8_t* data() { return memory.data() + (0 - reinterpret_cast<uintptr_t>(memory.data())) % 64; }
  template <typename T>
  void put(uint64_t at, uint64_t i, T value) {
    std::memcpy(data() + at + i * sizeof value, &value, sizeof value);
  }
  template <typename T>
  T get(uint64_t at, uint64_t i) {
    T value;
    std::memcpy(&value, data() + at + i * sizeof value, sizeof value);
    return value;
  }

  /// Inputs whose products with the factors are a quarter off integers of 16 bits, of which each block has the largest:
  /// no device's division turns one into another.
  std::vector<float> inputs(uint32_t tokens) {
    std::vector<float> x(tokens * form.cols);
    for (uint32_t t = 0; t < tokens; ++t) {
      uint64_t largest = UINT64_MAX;  // the block that has its largest already
      for (uint64_t j = 0; j < form.cols; ++j) {
        const float factor = get<float>(form.factor_at, j);
        float v = static_cast<float>(static_cast<int32_t>(rng() % 60001) - 30000) + (rng() % 2 == 0 ? 0.25f : -0.25f);
        if (factor != 0 && largest != j / kInputBlock && j % kInputBlock >= t % 16) {
          v = static_cast<float>(kLargestInput);
          largest = j / kInputBlock;
        }
        x[t * form.cols + j] = factor == 0 ? v : std::ldexp(v, static_cast<int>(j / kInputBlock % 3) - 12) / factor;
      }
    }
    return x;
  }

  std::mt19937 rng;
  IntegerForm form;
  std::vector<uint8_t> memory;
};

class IntegerDotsVulkan : public ::testing::Test {
 protected:
  struct Device {
    Status start(const Logger& log) {
      NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(false, log));
      DeviceChoice choice;
      choice.forced = "dot_product";
      NWC_ASSIGN_OR_RETURN(const DeviceInfo info, choose_device(*instance, choice));
      NWC_ASSIGN_OR_RETURN(device, VulkanDevice::create(std::move(instance), info));
      NWC_ASSIGN_OR_RETURN(pipelines, PipelineCache::create(*device));
      NWC_ASSIGN_OR_RETURN(batch, CommandBatch::create(*device, *pipelines));
      return {};
    }
    std::unique_ptr<VulkanDevice> device;
    std::unique_ptr<PipelineCache> pipelines;
    std::unique_ptr<CommandBatch> batch;
  };
  // One for all tests, so that kernels are compiled once.
  static void SetUpTestSuite() {
    shared_ = std::make_unique<Device>();
    status_ = shared_->start(log_.logger());
  }
  static void TearDownTestSuite() { shared_.reset(); }
  void SetUp() override {
    NWC_NEED_DEVICE(status_);
    device_ = shared_->device.get();
    pipelines_ = shared_->pipelines.get();
    batch_ = shared_->batch.get();
    if (!device_->info().dot_product) GTEST_SKIP() << "no dot products of bytes";
  }

  Result<std::vector<float>> on_device(Integers& w, IntegerProducts products, uint32_t tokens,
                                       const std::vector<float>& x) {
    const KernelAnswers answers{*device_, *batch_};
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer weights, answers.buffer(w.data(), DeviceForm(w.form).bytes));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer in, answers.floats(x));
    const uint64_t bytes = tokens * w.form.rows * sizeof(float);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, DeviceBuffer::create(*device_, bytes, MemoryKind::kReadback));
    const LayerOps ops(*device_, Dtype::kF32, products);
    NWC_TRY(batch_->begin());
    NWC_TRY(ops.matmul(*batch_, IntegerWeightsView{&weights, 0, &w.form}, tokens,
                       {&in, 0, static_cast<uint32_t>(w.form.cols)}, {&out, 0, static_cast<uint32_t>(w.form.rows)},
                       false));
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
    NWC_TRY(out.invalidate());
    std::vector<float> y(tokens * w.form.rows);
    std::memcpy(y.data(), out.mapped().data(), bytes);
    return y;
  }
  std::vector<float> on_cpu(Integers& w, uint32_t tokens, const std::vector<float>& x) {
    std::vector<float> y(tokens * w.form.rows);
    std::vector<uint8_t> scratch(integer_scratch(w.form.cols, tokens) + 63);
    const auto aligned = (reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64;
    const IntegerMatrix matrix{&w.form, w.data(), y.data()};
    multiply_integers(CpuLevel::kScalar, *runner_, {&matrix, 1}, tokens, x.data(), w.form.cols, w.form.rows,
                      reinterpret_cast<uint8_t*>(aligned));
    return y;
  }
  /// The largest difference, as a part of the largest number.
  static double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
      size = std::max(size, std::abs(double{b[i]}));
      if (!std::isfinite(a[i])) return INFINITY;
    }
    return most / size;
  }

  const std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  static inline Status status_;
  static inline testing::LogLines log_;
  static inline std::unique_ptr<Device> shared_;
  VulkanDevice* device_ = nullptr;
  PipelineCache* pipelines_ = nullptr;
  CommandBatch* batch_ = nullptr;
};

TEST_F(IntegerDotsVulkan, AreThoseOfTheCpu) {
  // A part of a unit, parts of a block, more than are staged at a time.
  for (const uint64_t cols : {20u, 300u, 1024u, 2300u}) {
    for (const uint32_t tokens : {1u, 2u, 3u, 4u, 7u, 8u, 9u, 40u}) {
      if (cols != 2300 && tokens != 1 && tokens != 7 && tokens != 9) continue;
      SCOPED_TRACE(std::to_string(cols) + " columns, " + std::to_string(tokens) + " tokens");
      Integers w(35, cols, false, 0);
      const std::vector<float> x = w.inputs(tokens), want = on_cpu(w, tokens, x);
      const auto got = on_device(w, IntegerProducts::kDots, tokens, x);
      ASSERT_TRUE(got.ok()) << got.status().message();
      // 18 blocks, whose sums f32 has to 24 bits.
      EXPECT_LT(difference(*got, want), 0x1p-21);
      if (tokens != 1) continue;
      const auto floats = on_device(w, IntegerProducts::kFloats, tokens, x);
      ASSERT_TRUE(floats.ok()) << floats.status().message();
      EXPECT_GT(difference(*floats, want), 0x1p-20) << "inputs that are not rounded give other results";
      EXPECT_LT(difference(*floats, want), 0x1p-14);
    }
  }
}

// Outliers take the inputs as they are, and shrinkage has inputs that fall where they like: within the rounding of
// inputs.
TEST_F(IntegerDotsVulkan, OutliersAndShrinkage) {
  for (const bool shrinks : {false, true}) {
    for (const uint32_t tokens : {1u, 3u, 8u, 33u}) {
      SCOPED_TRACE(std::to_string(tokens) + " tokens" + (shrinks ? ", shrinks" : ""));
      Integers w(51, 1100, shrinks, 40);
      const std::vector<float> x = w.inputs(tokens);
      const auto got = on_device(w, IntegerProducts::kDots, tokens, x);
      ASSERT_TRUE(got.ok()) << got.status().message();
      EXPECT_LT(difference(*got, on_cpu(w, tokens, x)), 0x1p-15);
    }
  }
}

TEST_F(IntegerDotsVulkan, InputsOfNoUseGiveWhatTheCpuGives) {
  Integers w(16, 300, false, 0);
  const auto first_of = [&](uint32_t tokens, float value) -> float {
    std::vector<float> x(tokens * 300, 0.0f);
    x[7] = value;
    const auto got = on_device(w, IntegerProducts::kDots, tokens, x);
    EXPECT_TRUE(got.ok()) << got.status().message();
    return got.ok() ? got->front() : 12345.0f;
  };
  for (const uint32_t tokens : {1u, 9u}) {
    EXPECT_TRUE(std::isnan(first_of(tokens, INFINITY)));
    EXPECT_TRUE(std::isnan(first_of(tokens, NAN)));
    EXPECT_EQ(first_of(tokens, 0.0f), 0.0f);
    EXPECT_EQ(first_of(tokens, 1e-38f), 0.0f) << "too small to have a scale";
  }
}

TEST_F(IntegerDotsVulkan, AreTakenIfTheirAnswersAreRight) {
  const auto right = choose_integer_products(*device_, *pipelines_, true, true);
  ASSERT_TRUE(right.ok()) << right.status().message();
  EXPECT_EQ(*right, IntegerProducts::kDots);
  EXPECT_TRUE(log_.all.empty()) << log_.all.front();

  setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
  faulty_vulkan()->damages_dots = true;
  Device other;
  const Status status = other.start(log_.logger());
  ASSERT_TRUE(status.ok()) << status.message();
  const auto wrong = choose_integer_products(*other.device, *other.pipelines, true, false);
  EXPECT_GE(faulty_vulkan()->damaged, 1u);
  reset_faulty_vulkan();
  unsetenv("NWC_VULKAN_LIBRARY");
  ASSERT_TRUE(wrong.ok()) << wrong.status().message();
  EXPECT_EQ(*wrong, IntegerProducts::kFloats);
  ASSERT_EQ(log_.warnings.size(), 1u);
  EXPECT_NE(log_.warnings[0].find("integers_few_dot"), std::string::npos) << log_.warnings[0];
}

}  // namespace
}  // namespace nwc
