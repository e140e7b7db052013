#include "runtime/vulkan/submit.h"

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

// Windows are planned to take well under a second; a device that needs minutes hangs. Software devices on a busy
// machine get their time.
constexpr uint64_t kTimeoutSeconds = 120;
constexpr uint32_t kSetsPerPool = 32;

}  // namespace

Result<std::unique_ptr<CommandBatch>> CommandBatch::create(VulkanDevice& device, PipelineCache& pipelines,
                                                           DeviceQueue* queue) {
  std::unique_ptr<CommandBatch> self(new CommandBatch(device, pipelines, queue == nullptr ? device.queue() : *queue));
  const DeviceFunctions& fn = device.fn();
  VkCommandPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
  pool.queueFamilyIndex = self->queue_.place.family;
  NWC_TRY(vk_status(fn.vkCreateCommandPool(device.handle(), &pool, nullptr, &self->pool_), "vkCreateCommandPool"));
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = self->pool_;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  NWC_TRY(
      vk_status(fn.vkAllocateCommandBuffers(device.handle(), &allocate, &self->commands_), "vkAllocateCommandBuffers"));
  VkFenceCreateInfo fence{};
  fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
  NWC_TRY(vk_status(fn.vkCreateFence(device.handle(), &fence, nullptr, &self->fence_), "vkCreateFence"));
  return self;
}

Result<VkDescriptorSet> CommandBatch::next_set() {
  if (used_sets_ < sets_.size()) return sets_[used_sets_++];
  const DeviceFunctions& fn = device_.fn();
  VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, kSetsPerPool * kShaderBuffers};
  VkDescriptorPoolCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  info.maxSets = kSetsPerPool;
  info.poolSizeCount = 1;
  info.pPoolSizes = &size;
  VkDescriptorPool pool = VK_NULL_HANDLE;
  NWC_TRY(vk_status(fn.vkCreateDescriptorPool(device_.handle(), &info, nullptr, &pool), "vkCreateDescriptorPool"));
  descriptor_pools_.push_back(pool);
  std::array<VkDescriptorSetLayout, kSetsPerPool> layouts;
  layouts.fill(pipelines_.set_layout());
  std::array<VkDescriptorSet, kSetsPerPool> made{};
  VkDescriptorSetAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
  allocate.descriptorPool = pool;
  allocate.descriptorSetCount = kSetsPerPool;
  allocate.pSetLayouts = layouts.data();
  NWC_TRY(vk_status(fn.vkAllocateDescriptorSets(device_.handle(), &allocate, made.data()), "vkAllocateDescriptorSets"));
  sets_.insert(sets_.end(), made.begin(), made.end());
  return sets_[used_sets_++];
}

CommandBatch::~CommandBatch() {
  if (in_flight_) (void)wait();
  if (device_.abandoned()) return;
  const DeviceFunctions& fn = device_.fn();
  for (const VkDescriptorPool pool : descriptor_pools_) fn.vkDestroyDescriptorPool(device_.handle(), pool, nullptr);
  if (clock_ != VK_NULL_HANDLE) fn.vkDestroyQueryPool(device_.handle(), clock_, nullptr);
  if (fence_ != VK_NULL_HANDLE) fn.vkDestroyFence(device_.handle(), fence_, nullptr);
  if (pool_ != VK_NULL_HANDLE) fn.vkDestroyCommandPool(device_.handle(), pool_, nullptr);
}

Status CommandBatch::begin() {
  if (device_.lost()) return Status(StatusCode::kDeviceLost, "the Vulkan device was lost earlier");
  const DeviceFunctions& fn = device_.fn();
  assert(!in_flight_);
  used_sets_ = 0;
  clock_stopped_ = false;
  NWC_TRY(vk_status(fn.vkResetCommandPool(device_.handle(), pool_, 0), "vkResetCommandPool"));
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  NWC_TRY(vk_status(fn.vkBeginCommandBuffer(commands_, &begin), "vkBeginCommandBuffer"));
  // What other queues have written, and the host has waited for, becomes visible here.
  if (!device_.info().decode_queues.empty()) barrier();
  return {};
}

void CommandBatch::copy(const DeviceBuffer& from, uint64_t from_offset, const DeviceBuffer& to, uint64_t to_offset,
                        uint64_t size) {
  assert(from_offset + size <= from.size() && to_offset + size <= to.size());
  const VkBufferCopy region{from_offset, to_offset, size};
  device_.fn().vkCmdCopyBuffer(commands_, from.handle(), to.handle(), 1, &region);
}

void CommandBatch::copy_rows(const DeviceBuffer& from, uint64_t from_offset, const DeviceBuffer& to, uint64_t to_offset,
                             uint64_t rows, uint64_t row_bytes, uint64_t stride_bytes) {
  if (row_bytes == stride_bytes) return copy(from, from_offset, to, to_offset, rows * row_bytes);
  assert(rows == 0 || to_offset + (rows - 1) * stride_bytes + row_bytes <= to.size());
  std::vector<VkBufferCopy> regions;
  for (uint64_t r = 0; r < rows; ++r) {
    regions.push_back({from_offset + r * row_bytes, to_offset + r * stride_bytes, row_bytes});
  }
  if (regions.empty()) return;
  device_.fn().vkCmdCopyBuffer(commands_, from.handle(), to.handle(), static_cast<uint32_t>(regions.size()),
                               regions.data());
}

void CommandBatch::fill(const DeviceBuffer& buffer, uint64_t size, uint32_t word) {
  assert(size <= buffer.size() && size % 4 == 0);
  device_.fn().vkCmdFillBuffer(commands_, buffer.handle(), 0, size, word);
}

void CommandBatch::barrier() {
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_HOST_READ_BIT;
  const VkPipelineStageFlags device_stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  device_.fn().vkCmdPipelineBarrier(commands_, device_stages, device_stages | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory,
                                    0, nullptr, 0, nullptr);
}

Status CommandBatch::dispatch(const PipelineKey& key, const Bindings& bindings, PushView push,
                              std::array<uint32_t, 3> groups) {
  if (*std::max_element(groups.begin(), groups.end()) > kMaxGroups) {
    return unsupported(str_cat(shader_name(key.shader), ": ", groups[0], " x ", groups[1], " x ", groups[2],
                               " workgroups, ", kMaxGroups, " are possible in a dimension"));
  }
  const uint64_t range = device_.info().max_storage_range;
  for (const BufferView& view : bindings) {
    if (view.buffer == nullptr || view.size <= range) continue;
    return unsupported(str_cat(shader_name(key.shader), ": ", view.size, " bytes of a buffer, ", device_.info().name,
                               " can bind ", range));
  }
  const DeviceFunctions& fn = device_.fn();
  NWC_ASSIGN_OR_RETURN(const VkPipeline pipeline, pipelines_.get(key));
  NWC_ASSIGN_OR_RETURN(const VkDescriptorSet set, next_set());
  std::array<VkDescriptorBufferInfo, kShaderBuffers> buffers{};
  std::array<VkWriteDescriptorSet, kShaderBuffers> writes{};
  // Bindings that a kernel does not have get some buffer that lives: drivers follow what an earlier use of the set
  // left.
  const auto any =
      std::find_if(bindings.begin(), bindings.end(), [](const BufferView& v) { return v.buffer != nullptr; });
  assert(any != bindings.end());
  for (uint32_t i = 0; i < kShaderBuffers; ++i) {
    const BufferView& view = bindings[i].buffer != nullptr ? bindings[i] : *any;
    assert(view.offset % device_.info().offset_alignment == 0 && view.offset + view.size <= view.buffer->size());
    buffers[i] = {view.buffer->handle(), view.offset, view.size};
    writes[i].sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    writes[i].dstSet = set;
    writes[i].dstBinding = i;
    writes[i].descriptorCount = 1;
    writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    writes[i].pBufferInfo = &buffers[i];
  }
  fn.vkUpdateDescriptorSets(device_.handle(), kShaderBuffers, writes.data(), 0, nullptr);
  fn.vkCmdBindPipeline(commands_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
  fn.vkCmdBindDescriptorSets(commands_, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines_.layout(), 0, 1, &set, 0, nullptr);
  fn.vkCmdPushConstants(commands_, pipelines_.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0, push.size, push.data);
  fn.vkCmdDispatch(commands_, groups[0], groups[1], groups[2]);
  return {};
}

Status CommandBatch::start_clock() {
  if (queue_.place.timestamp_bits == 0) return {};
  const DeviceFunctions& fn = device_.fn();
  if (clock_ == VK_NULL_HANDLE) {
    VkQueryPoolCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    info.queryType = VK_QUERY_TYPE_TIMESTAMP;
    info.queryCount = 2;
    NWC_TRY(vk_status(fn.vkCreateQueryPool(device_.handle(), &info, nullptr, &clock_), "vkCreateQueryPool"));
  }
  fn.vkCmdResetQueryPool(commands_, clock_, 0, 2);
  fn.vkCmdWriteTimestamp(commands_, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, clock_, 0);
  return {};
}

void CommandBatch::stop_clock() {
  if (clock_ == VK_NULL_HANDLE) return;
  device_.fn().vkCmdWriteTimestamp(commands_, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, clock_, 1);
  clock_stopped_ = true;
}

double CommandBatch::seconds() const {
  if (!clock_stopped_ || in_flight_ || device_.abandoned()) return 0;
  std::array<uint64_t, 2> ticks{};
  const VkResult r = device_.fn().vkGetQueryPoolResults(device_.handle(), clock_, 0, 2, sizeof ticks, ticks.data(),
                                                        sizeof ticks[0], VK_QUERY_RESULT_64_BIT);
  if (r != VK_SUCCESS) return 0;
  const uint32_t bits = queue_.place.timestamp_bits;
  const uint64_t valid = bits >= 64 ? UINT64_MAX : (uint64_t{1} << bits) - 1;
  return static_cast<double>((ticks[1] - ticks[0]) & valid) * device_.info().timestamp_nanoseconds * 1e-9;
}

Status CommandBatch::submit() {
  const DeviceFunctions& fn = device_.fn();
  NWC_TRY(vk_status(fn.vkEndCommandBuffer(commands_), "vkEndCommandBuffer"));
  NWC_TRY(vk_status(fn.vkResetFences(device_.handle(), 1, &fence_), "vkResetFences"));
  VkSubmitInfo submit{};
  submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &commands_;
  const std::lock_guard<DeviceQueue> lock(queue_);
  if (const VkResult r = fn.vkQueueSubmit(queue_.handle, 1, &submit, fence_); r != VK_SUCCESS) {
    if (r == VK_ERROR_DEVICE_LOST) device_.set_lost();
    return vk_status(r, "vkQueueSubmit");
  }
  in_flight_ = true;
  return {};
}

Status CommandBatch::wait() {
  assert(in_flight_);
  in_flight_ = false;
  if (device_.abandoned()) return Status(StatusCode::kDeviceLost, "the Vulkan device was lost earlier");
  const VkResult r =
      device_.fn().vkWaitForFences(device_.handle(), 1, &fence_, VK_TRUE, kTimeoutSeconds * uint64_t{1'000'000'000});
  if (r == VK_SUCCESS) return {};
  if (r == VK_ERROR_DEVICE_LOST) {
    device_.set_lost();
  } else {
    device_.abandon();
  }
  if (r == VK_TIMEOUT) {
    return Status(StatusCode::kDeviceLost,
                  str_cat("the Vulkan device did not finish within ", kTimeoutSeconds, " s: decode on the CPU"));
  }
  return Status(StatusCode::kDeviceLost, str_cat("vkWaitForFences: ", vk_result_name(r)));
}

}  // namespace nwc
