// Kernels that compute wrongly and a device that goes away, injected below the decoder: the next variant or the CPU
// goes on, with the same values and a log line. Sessions: tests/capi/test_c_api_faults.cpp.
#include <gtest/gtest.h>

#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using testing::LogLines;

class VulkanFaults : public ::testing::Test {
 protected:
  static constexpr uint64_t kRows = 96, kCols = 80;

  void SetUp() override {
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    reset_faulty_vulkan();
    const CodecRecord codec = testing::random_codec({2, 4});
    file_ = testing::open_bytes(testing::model_file(codec, {testing::coded_tensor(codec, {"coded", kRows, kCols})}));
    ASSERT_NE(file_, nullptr);
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    expected_.resize(kRows * kCols);
    ASSERT_TRUE((*cpu)->decode_values(0, expected_).ok());
  }
  void TearDown() override { unsetenv("NWC_VULKAN_LIBRARY"); }

  Result<std::unique_ptr<Decoder>> create_vulkan() {
    return create_vulkan_decoder(*file_, *runner_, {}, log_.logger());
  }
  /// On whatever device there is: "auto" takes a software renderer that says it is something else.
  Result<std::unique_ptr<Decoder>> create_auto() {
    faulty_vulkan()->hardware = true;
    return create_auto_decoder(*file_, *runner_, {}, log_.logger());
  }
  void expect_decodes(Decoder& decoder) {
    std::vector<int16_t> got(expected_.size());
    const Status status = decoder.decode_values(0, got);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(got, expected_);
  }
  size_t count_lines(const std::string& text) const {
    return static_cast<size_t>(std::count_if(log_.all.begin(), log_.all.end(), [&](const std::string& line) {
      return line.find(text) != std::string::npos;
    }));
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(1);
  LogLines log_;
  std::unique_ptr<NwcFile> file_;
  std::vector<int16_t> expected_;
};

TEST_F(VulkanFaults, WithoutAFaultNothingIsSaid) {
  const auto decoder = create_auto();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  if ((*decoder)->on_device() == nullptr) NWC_NEED_DEVICE(create_vulkan().status());
  ASSERT_NE((*decoder)->on_device(), nullptr);
  expect_decodes(**decoder);
  EXPECT_EQ(count_lines("quarantined") + count_lines("given up"), 0u);
  EXPECT_GT(faulty_vulkan()->submits, 0u);
}

TEST_F(VulkanFaults, WrongKernelIsReplacedByTheNextVariant) {
  auto decoder = create_vulkan();
  NWC_NEED_DEVICE(decoder.status());
  if (!static_cast<const VulkanDecoder&>(**decoder).device_info().ballot) GTEST_SKIP() << "one kernel, and no other";
  faulty_vulkan()->modules = 0;
  faulty_vulkan()->damaged_modules = 1;  // the first variant that is tried
  decoder = create_vulkan();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  EXPECT_GE(count_lines("quarantined Vulkan kernel"), 1u);
  EXPECT_TRUE(log_.mentions("rANS kernel: shared"));
  expect_decodes(**decoder);
}

TEST_F(VulkanFaults, WithoutARightKernelTheCpuDecodes) {
  NWC_NEED_DEVICE(create_vulkan().status());
  faulty_vulkan()->modules = 0;
  faulty_vulkan()->damaged_modules = 3;
  const auto decoder = create_auto();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  EXPECT_EQ((*decoder)->on_device(), nullptr);
  EXPECT_TRUE(log_.mentions("backend auto: the CPU decodes, since"));
  expect_decodes(**decoder);
}

TEST_F(VulkanFaults, KernelThatFailsLaterIsReplaced) {
  const auto decoder = create_vulkan();
  NWC_NEED_DEVICE(decoder.status());
  const size_t before = count_lines("quarantined");
  faulty_vulkan()->batches_until_skip = faulty_vulkan()->batches;
  expect_decodes(**decoder);
  EXPECT_EQ(faulty_vulkan()->skipped, 1u);
  EXPECT_EQ(count_lines("quarantined"), before + 1);
  expect_decodes(**decoder);
  EXPECT_EQ(count_lines("quarantined"), before + 1);
}

TEST_F(VulkanFaults, LostDeviceIsReplacedByTheCpu) {
  NWC_NEED_DEVICE(create_vulkan().status());
  const auto decoder = create_auto();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  ASSERT_NE((*decoder)->on_device(), nullptr);
  const std::string& name = (*decoder)->name();
  expect_decodes(**decoder);
  faulty_vulkan()->submits_until_lost = faulty_vulkan()->submits;
  expect_decodes(**decoder);
  EXPECT_EQ((*decoder)->on_device(), nullptr);
  EXPECT_EQ((*decoder)->name().rfind("cpu ", 0), 0u) << (*decoder)->name();
  EXPECT_EQ(name.rfind("vulkan ", 0), 0u) << "the old name lives as long as the decoder";
  EXPECT_EQ(count_lines("is given up"), 1u);
  EXPECT_TRUE(log_.mentions("VK_ERROR_DEVICE_LOST"));
  const uint32_t submits = faulty_vulkan()->submits;
  expect_decodes(**decoder);
  EXPECT_EQ(faulty_vulkan()->submits, submits) << "the device is not asked again";
  EXPECT_EQ(count_lines("is given up"), 1u);
}

TEST_F(VulkanFaults, LostDeviceIsAnErrorWhereVulkanWasAskedFor) {
  const auto decoder = create_vulkan();
  NWC_NEED_DEVICE(decoder.status());
  faulty_vulkan()->submits_until_lost = faulty_vulkan()->submits;
  std::vector<int16_t> got(expected_.size());
  for (int i = 0; i < 2; ++i) {
    const Status status = (*decoder)->decode_values(0, got);
    EXPECT_EQ(status.code(), StatusCode::kDeviceLost) << status.message();
  }
}

TEST_F(VulkanFaults, HangingDeviceIsReplacedByTheCpu) {
  NWC_NEED_DEVICE(create_vulkan().status());
  {
    const auto decoder = create_auto();
    ASSERT_TRUE(decoder.ok() && (*decoder)->on_device() != nullptr);
    expect_decodes(**decoder);
    faulty_vulkan()->waits_until_hang = faulty_vulkan()->waits;
    expect_decodes(**decoder);
    EXPECT_EQ((*decoder)->on_device(), nullptr);
    EXPECT_EQ(count_lines("is given up"), 1u);
    EXPECT_TRUE(log_.mentions("did not finish within"));
    const FaultyVulkan before = *faulty_vulkan();
    expect_decodes(**decoder);
    EXPECT_EQ(faulty_vulkan()->submits, before.submits);
    EXPECT_EQ(faulty_vulkan()->waits, before.waits);
  }
  // What hangs is left behind; another device can be opened.
  faulty_vulkan()->waits_until_hang = -1;
  const auto decoder = create_vulkan();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  expect_decodes(**decoder);
}

TEST_F(VulkanFaults, HangingDeviceIsAnErrorWhereVulkanWasAskedFor) {
  const auto decoder = create_vulkan();
  NWC_NEED_DEVICE(decoder.status());
  faulty_vulkan()->waits_until_hang = faulty_vulkan()->waits;
  std::vector<int16_t> got(expected_.size());
  for (int i = 0; i < 2; ++i) {
    const Status status = (*decoder)->decode_values(0, got);
    EXPECT_EQ(status.code(), StatusCode::kDeviceLost) << status.message();
  }
}

TEST_F(VulkanFaults, DeviceThatHangsAtStartUpIsReplacedByTheCpu) {
  NWC_NEED_DEVICE(create_vulkan().status());
  for (int64_t wait = 0; wait < 4; ++wait) {
    reset_faulty_vulkan();
    faulty_vulkan()->waits_until_hang = wait;
    const auto decoder = create_auto();
    ASSERT_TRUE(decoder.ok()) << decoder.status().message();
    EXPECT_EQ((*decoder)->on_device(), nullptr);
    expect_decodes(**decoder);
  }
}

TEST_F(VulkanFaults, WithoutDeviceMemoryTheCpuDecodes) {
  auto device = create_vulkan();
  NWC_NEED_DEVICE(device.status());
  faulty_vulkan()->allocations_fail = true;
  const auto decoder = make_fallback_decoder(std::move(device).value(), *file_, *runner_, log_.logger());
  expect_decodes(*decoder);
  EXPECT_EQ(decoder->on_device(), nullptr);
  EXPECT_EQ(count_lines("is given up"), 1u);
  EXPECT_TRUE(log_.mentions("VK_ERROR_OUT_OF_DEVICE_MEMORY"));
}

TEST_F(VulkanFaults, InputErrorsAreNotTheDevices) {
  NWC_NEED_DEVICE(create_vulkan().status());
  const auto decoder = create_auto();
  ASSERT_TRUE(decoder.ok() && (*decoder)->on_device() != nullptr);
  std::vector<int16_t> small(1);
  EXPECT_EQ((*decoder)->decode_values(0, small).code(), StatusCode::kBufferTooSmall);
  EXPECT_NE((*decoder)->on_device(), nullptr);
}

}  // namespace
}  // namespace nwc
