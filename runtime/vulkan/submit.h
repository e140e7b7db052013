// Recording one batch of compute work, submitting it, waiting for it.
#pragma once

#include <algorithm>
#include <array>
#include <memory>

#include "runtime/vulkan/device_buffer.h"
#include "runtime/vulkan/pipeline.h"

namespace nwc {

/// Buffers of a dispatch by binding; nullptr where the kernel has none.
using Bindings = std::array<const DeviceBuffer*, kShaderBuffers>;

/// One command buffer and one fence: at most one batch is in flight.
class CommandBatch {
 public:
  static constexpr uint32_t kMaxDispatches = 8;

  static Result<std::unique_ptr<CommandBatch>> create(VulkanDevice& device, PipelineCache& pipelines);
  ~CommandBatch();
  CommandBatch(const CommandBatch&) = delete;
  CommandBatch& operator=(const CommandBatch&) = delete;

  Status begin();
  void copy(const DeviceBuffer& from, uint64_t from_offset, const DeviceBuffer& to, uint64_t to_offset, uint64_t size);
  void fill(const DeviceBuffer& buffer, uint64_t size, uint32_t word);
  /// Everything recorded before is finished and visible to everything after, the host included.
  void barrier();
  /// push: at most kPushConstantBytes. At most kMaxDispatches in a batch.
  Status dispatch(const PipelineKey& key, const Bindings& bindings, std::span<const uint32_t> push, uint32_t groups);
  /// Errors: kDeviceLost, also when the device does not finish in time: it is abandoned then.
  Status submit_and_wait();

 private:
  CommandBatch(VulkanDevice& device, PipelineCache& pipelines) : device_(device), pipelines_(pipelines) {}

  VulkanDevice& device_;
  PipelineCache& pipelines_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
  VkFence fence_ = VK_NULL_HANDLE;
  VkDescriptorPool descriptor_pool_ = VK_NULL_HANDLE;
  std::array<VkDescriptorSet, kMaxDispatches> sets_{};
  uint32_t used_sets_ = 0;
};

}  // namespace nwc
