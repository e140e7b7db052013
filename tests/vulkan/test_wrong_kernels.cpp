// Every kernel that a decoder uses, made to answer wrongly one after the other below the decoder: the self-test sees
// it, another kernel or the CPU takes its place, the results are right.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"
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

}  // namespace
}  // namespace nwc
