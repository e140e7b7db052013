// Every kernel that a decoder uses, made to answer wrongly one after the other below the decoder: the self-test sees
// it, another kernel or the CPU takes its place, the results are right.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"
#include "runtime/decoder/vulkan/device_product.h"
#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

constexpr uint64_t kRows = 96, kCols = 80;

class WrongKernels : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    reset_faulty_vulkan();
    testing::CodecSpec spec{2, 4};
    if (GetParam()) spec = {2, 4, 16, 1, Activation::kSilu};
    const CodecRecord codec = testing::random_codec(spec);
    file_ = testing::open_bytes(testing::model_file(codec, {testing::coded_tensor(codec, {"t", kRows, kCols})}));
    ASSERT_NE(file_, nullptr);
  }
  void TearDown() override { unsetenv("NWC_VULKAN_LIBRARY"); }

  static std::vector<int16_t> values(Decoder& decoder) {
    std::vector<int16_t> out(kRows * kCols);
    const Status status = decoder.decode_values(0, out);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }
  static std::vector<float> weights(Decoder& decoder, Dtype dtype) {
    std::vector<uint8_t> bytes(kRows * kCols * dtype_size(dtype));
    DecodeRequest request;
    request.row_end = kRows;
    request.dtype = dtype;
    request.out = bytes;
    const Status status = decoder.decode(request);
    EXPECT_TRUE(status.ok()) << status.message();
    std::vector<float> out(kRows * kCols);
    for (size_t i = 0; i < out.size(); ++i) {
      const uint8_t* at = bytes.data() + i * dtype_size(dtype);
      out[i] = dtype == Dtype::kF32 ? load_le<float>(at) : f16_to_f32(load_le<uint16_t>(at));
    }
    return out;
  }

  /// y of a product with x = 1, 2, 3...
  Status multiply(VulkanDecoder& decoder, std::vector<float>* out) {
    NWC_ASSIGN_OR_RETURN(const auto product, VulkanFusedProduct::create(decoder));
    NWC_TRY(product->load(0));
    VulkanDevice& device = decoder.device();
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer x, DeviceBuffer::create(device, kCols * 4, MemoryKind::kUpload));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer y, DeviceBuffer::create(device, kRows * 4, MemoryKind::kReadback));
    for (uint32_t i = 0; i < kCols; ++i) store_le(x.mapped().data() + i * 4, static_cast<float>(i + 1));
    NWC_ASSIGN_OR_RETURN(const auto batch, CommandBatch::create(device, decoder.pipelines()));
    NWC_TRY(batch->begin());
    const VulkanFusedProduct::Product job{0, 1, &x, kCols, &y, kRows, false};
    NWC_TRY(product->record(*batch, {&job, 1}));
    NWC_TRY(batch->submit_and_wait());
    for (uint32_t i = 0; i < kRows; ++i) out->push_back(load_le<float>(y.mapped().data() + i * 4));
    return {};
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(1);
  testing::LogLines log_;
  std::unique_ptr<NwcFile> file_;
};

INSTANTIATE_TEST_SUITE_P(Codecs, WrongKernels, ::testing::Values(false, true),
                         [](const auto& p) { return std::string(p.param ? "Network" : "Linear"); });

TEST_P(WrongKernels, AreSeenAndReplaced) {
  NWC_NEED_DEVICE(create_vulkan_decoder(*file_, *runner_, {}, log_.logger()).status());
  const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
  const std::vector<int16_t> expected_values = values(**cpu);
  const std::vector<float> expected = weights(**cpu, Dtype::kF32);
  float most = 0;
  for (const float w : expected) most = std::max(most, std::fabs(w));

  // Kernels are numbered as they are first used: for values, then for weights of both types.
  uint32_t number = 0;
  for (;; ++number) {
    SCOPED_TRACE("kernel " + std::to_string(number));
    reset_faulty_vulkan();
    faulty_vulkan()->hardware = true;
    faulty_vulkan()->damaged_modules = 1u << number;
    log_.all.clear();
    const auto decoder = create_auto_decoder(*file_, *runner_, {}, log_.logger());
    ASSERT_TRUE(decoder.ok()) << decoder.status().message();
    EXPECT_EQ(values(**decoder), expected_values);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
      const std::vector<float> got = weights(**decoder, dtype);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], most * 0x1p-10f) << dtype_name(dtype) << " " << i;
      }
    }
    if (faulty_vulkan()->modules <= number) break;
    EXPECT_EQ(faulty_vulkan()->damaged, 1u);
    EXPECT_TRUE(log_.mentions("quarantined Vulkan kernel") || log_.mentions("the CPU decodes, since"));
  }
  EXPECT_GE(number, 2u) << "the rANS kernel, and what comes after it";
}

TEST_P(WrongKernels, ProductsAreRightOrRefused) {
  NWC_NEED_DEVICE(create_vulkan_decoder(*file_, *runner_, {}, log_.logger()).status());
  const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
  const std::vector<float> weight = weights(**cpu, Dtype::kF32);
  // A weight may be off by a part of the largest of its chunk.
  std::vector<float> expected(kRows), tolerance(kRows);
  for (size_t i = 0; i < weight.size(); ++i) {
    const size_t row = i / kCols, column = i % kCols;
    const float x = static_cast<float>(column + 1);
    float most = 0;
    for (size_t k = 0; k < kChunk; ++k) {
      most = std::max(most, std::fabs(weight[(row / kChunk * kChunk + k) * kCols + column]));
    }
    expected[row] += weight[i] * x;
    tolerance[row] += most * x * 0x1p-12f;
  }
  uint32_t number = 0, refused = 0;
  for (;; ++number) {
    SCOPED_TRACE("kernel " + std::to_string(number));
    reset_faulty_vulkan();
    faulty_vulkan()->hardware = true;
    faulty_vulkan()->damaged_modules = 1u << number;
    const auto decoder = VulkanDecoder::create(*file_, *runner_, {}, log_.logger());
    std::vector<float> got;
    const Status status = decoder.ok() ? multiply(**decoder, &got) : decoder.status();
    if (status.ok()) {
      for (uint32_t i = 0; i < kRows; ++i) ASSERT_NEAR(got[i], expected[i], tolerance[i]) << i;
    } else {
      EXPECT_TRUE(status.code() == StatusCode::kDevice || status.code() == StatusCode::kNoDevice) << status.message();
      ++refused;
    }
    if (faulty_vulkan()->modules <= number) break;
  }
  EXPECT_GE(refused, 1u) << "the sum of partial results, for which there is no other kernel";
}

}  // namespace
}  // namespace nwc
