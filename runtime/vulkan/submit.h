// A batch of compute work: it is recorded, submitted and waited for.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

#include "runtime/vulkan/device_buffer.h"
#include "runtime/vulkan/pipeline.h"

namespace nwc {

/// Part of a buffer. Bound to a kernel, `offset` is a multiple of DeviceInfo::offset_alignment.
struct BufferView {
  BufferView() = default;
  BufferView(std::nullptr_t) {}
  BufferView(const DeviceBuffer* b) : buffer(b), size(b->size()) {}
  BufferView(const DeviceBuffer* b, uint64_t at, uint64_t bytes) : buffer(b), offset(at), size(bytes) {}

  const DeviceBuffer* buffer = nullptr;
  uint64_t offset = 0, size = 0;
};
/// The buffers of a dispatch by binding. A binding that the kernel does not have stays empty.
using Bindings = std::array<BufferView, kShaderBuffers>;

/// The push constants of a dispatch: the struct of shaders/common/push_constants.h that its kernel declares.
struct PushView {
  template <typename Push>
  PushView(const Push& push) : data(&push), size(sizeof(Push)) {
    static_assert(std::is_trivially_copyable_v<Push> && sizeof(Push) % 4 == 0 && sizeof(Push) <= kPushConstantBytes);
  }
  const void* data;
  uint32_t size;
};

/// One command buffer and one fence: at most one batch is in flight. Not thread-safe; several batches may be in flight
/// from several threads. Those of one queue run in the order in which they were submitted, without waiting for each
/// other except at barriers; those of different queues know nothing of each other, but see everything that was waited
/// for before they were submitted.
class CommandBatch {
 public:
  /// queue: of the device; null: its first one.
  static Result<std::unique_ptr<CommandBatch>> create(VulkanDevice& device, PipelineCache& pipelines,
                                                      DeviceQueue* queue = nullptr);
  ~CommandBatch();
  CommandBatch(const CommandBatch&) = delete;
  CommandBatch& operator=(const CommandBatch&) = delete;

  Status begin();
  /// Sizes and offsets are in bytes.
  void copy(const DeviceBuffer& from, uint64_t from_offset, const DeviceBuffer& to, uint64_t to_offset, uint64_t size);
  void fill(const DeviceBuffer& buffer, uint64_t size, uint32_t word);
  /// Everything recorded before is finished and visible to everything after, the host included.
  void barrier();
  /// Rows of `row_bytes` from a packed matrix to one with `stride_bytes` from row to row.
  void copy_rows(const DeviceBuffer& from, uint64_t from_offset, const DeviceBuffer& to, uint64_t to_offset,
                 uint64_t rows, uint64_t row_bytes, uint64_t stride_bytes);
  /// groups: workgroups in x, y and z. Errors: kUnsupported (a binding of more bytes
  /// than the device takes, more than kMaxGroups workgroups in a dimension), kOutOfMemory, kDevice (the pipeline).
  Status dispatch(const PipelineKey& key, const Bindings& bindings, PushView push, std::array<uint32_t, 3> groups);
  Status dispatch(const PipelineKey& key, const Bindings& bindings, PushView push, uint32_t groups) {
    return dispatch(key, bindings, push, {groups, 1, 1});
  }
  /// Between these two the device takes the time, once in a batch: from when what was recorded before is finished until
  /// what lies between is. Without effect on a device without timestamps. Errors: kOutOfMemory, kDevice.
  Status start_clock();
  void stop_clock();
  /// Time of the batch that was waited for last; 0 without a clock.
  double seconds() const;
  /// Errors: kDeviceLost.
  Status submit();
  /// Waits for what submit() sent. Errors: kDeviceLost, also when the device does not finish in time: it is abandoned
  /// then.
  Status wait();
  bool in_flight() const { return in_flight_; }
  Status submit_and_wait() {
    NWC_TRY(submit());
    return wait();
  }

 private:
  Result<VkDescriptorSet> next_set();

  CommandBatch(VulkanDevice& device, PipelineCache& pipelines, DeviceQueue& queue)
      : device_(device), pipelines_(pipelines), queue_(queue) {}

  VulkanDevice& device_;
  PipelineCache& pipelines_;
  DeviceQueue& queue_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
  VkFence fence_ = VK_NULL_HANDLE;
  VkQueryPool clock_ = VK_NULL_HANDLE;
  bool clock_stopped_ = false;
  std::vector<VkDescriptorPool> descriptor_pools_;
  std::vector<VkDescriptorSet> sets_;
  size_t used_sets_ = 0;
  bool in_flight_ = false;
};

}  // namespace nwc
