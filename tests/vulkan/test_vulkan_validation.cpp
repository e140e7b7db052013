// The validation layer is there and looks for missing barriers: without this, that other tests see no message would say
// nothing.
#include <gtest/gtest.h>

#include "runtime/vulkan/submit.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

class VulkanValidation : public ::testing::Test {
 protected:
  static constexpr uint64_t kBytes = 256;

  Status start(bool validation = true) {
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(validation, log_.logger()));
    NWC_ASSIGN_OR_RETURN(const DeviceInfo info, choose_device(*instance, {}));
    NWC_ASSIGN_OR_RETURN(device_, VulkanDevice::create(std::move(instance), info));
    NWC_ASSIGN_OR_RETURN(pipelines_, PipelineCache::create(*device_));
    NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(*device_, *pipelines_));
    for (DeviceBuffer& buffer : buffers_) {
      NWC_ASSIGN_OR_RETURN(buffer, DeviceBuffer::create(*device_, kBytes, MemoryKind::kDevice));
    }
    return {};
  }
  /// convert_half reads one buffer and writes the other.
  Status convert(int from, int to) {
    const ConvertPush push{.count = kBytes / 4};
    return batch_->dispatch({ShaderId::kConvertHalf, {}, 0}, {nullptr, nullptr, &buffers_[from], &buffers_[to]}, push,
                            1);
  }
  bool validation() const { return device_->instance().validation_enabled(); }
  uint64_t messages() const { return device_->instance().validation_messages(); }

  testing::LogLines log_;
  // In order of dependence: the device goes last.
  std::unique_ptr<VulkanDevice> device_;
  std::unique_ptr<PipelineCache> pipelines_;
  DeviceBuffer buffers_[2];
  std::unique_ptr<CommandBatch> batch_;
};

#define NWC_NEED_VALIDATION()                                                                    \
  do {                                                                                           \
    NWC_NEED_DEVICE(start());                                                                    \
    if (!validation() && !testing::vulkan_required()) GTEST_SKIP() << "no validation layer";     \
    ASSERT_TRUE(validation()) << "VK_LAYER_KHRONOS_validation is missing: run scripts/setup.sh"; \
  } while (0)

TEST_F(VulkanValidation, CopiesToOnePlaceNeedABarrier) {
  NWC_NEED_VALIDATION();
  ASSERT_TRUE(batch_->begin().ok());
  batch_->fill(buffers_[0], kBytes, 1);
  batch_->fill(buffers_[1], kBytes, 2);
  batch_->barrier();
  batch_->copy(buffers_[0], 0, buffers_[1], 0, kBytes);
  EXPECT_EQ(messages(), 0u);
  batch_->fill(buffers_[1], kBytes, 3);
  EXPECT_EQ(messages(), 1u);
  EXPECT_TRUE(log_.mentions("SYNC-HAZARD-WRITE-AFTER-WRITE"));
}

TEST_F(VulkanValidation, WhatAKernelReadsNeedsABarrier) {
  NWC_NEED_VALIDATION();
  ASSERT_TRUE(batch_->begin().ok());
  batch_->fill(buffers_[0], kBytes, 1);
  ASSERT_TRUE(convert(0, 1).ok());
  EXPECT_EQ(messages(), 1u);
  EXPECT_TRUE(log_.mentions("SYNC-HAZARD-READ-AFTER-WRITE"));
}

TEST_F(VulkanValidation, WhatAKernelWritesNeedsABarrier) {
  NWC_NEED_VALIDATION();
  ASSERT_TRUE(batch_->begin().ok());
  batch_->fill(buffers_[0], kBytes, 1);
  batch_->barrier();
  ASSERT_TRUE(convert(0, 1).ok());
  EXPECT_EQ(messages(), 0u);
  ASSERT_TRUE(convert(1, 0).ok());
  EXPECT_EQ(messages(), 2u);
  EXPECT_TRUE(log_.mentions("SYNC-HAZARD-READ-AFTER-WRITE"));
  EXPECT_TRUE(log_.mentions("SYNC-HAZARD-WRITE-AFTER-READ"));
}

TEST_F(VulkanValidation, WithBarriersNothingIsSaid) {
  NWC_NEED_VALIDATION();
  ASSERT_TRUE(batch_->begin().ok());
  batch_->fill(buffers_[0], kBytes, 0x3f800000u);
  batch_->barrier();
  ASSERT_TRUE(convert(0, 1).ok());
  batch_->barrier();
  batch_->copy(buffers_[1], 0, buffers_[0], 0, kBytes);
  batch_->barrier();
  ASSERT_TRUE(batch_->submit_and_wait().ok());
  EXPECT_EQ(messages(), 0u) << log_.errors[0];
}

// Fails as a test of tests/CMakeLists.txt's nwc_add_vulkan_test, and only there.
TEST_F(VulkanValidation, DISABLED_Hazard) {
  NWC_NEED_DEVICE(start(false));
  ASSERT_TRUE(batch_->begin().ok());
  batch_->fill(buffers_[0], kBytes, 1);
  batch_->fill(buffers_[0], kBytes, 2);
}

}  // namespace
}  // namespace nwc
