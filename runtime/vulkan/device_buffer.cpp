#include "runtime/vulkan/device_buffer.h"

#include <algorithm>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

/// Queues of every family may use the buffer. For buffers, other than for images, that costs nothing.
void share(const VulkanDevice& device, VkBufferCreateInfo* info) {
  const std::vector<uint32_t>& families = device.families();
  info->sharingMode = families.size() > 1 ? VK_SHARING_MODE_CONCURRENT : VK_SHARING_MODE_EXCLUSIVE;
  info->queueFamilyIndexCount = families.size() > 1 ? static_cast<uint32_t>(families.size()) : 0;
  info->pQueueFamilyIndices = families.data();
}

}  // namespace

std::vector<uint32_t> candidate_types(const VkPhysicalDeviceMemoryProperties& memory, uint32_t allowed,
                                      MemoryKind kind) {
  struct Candidate {
    int score;
    uint32_t type;
  };
  std::vector<Candidate> candidates;
  for (uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    if ((allowed >> i & 1u) == 0) continue;
    const VkMemoryPropertyFlags flags = memory.memoryTypes[i].propertyFlags;
    if ((flags & (VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD)) != 0) continue;
    const bool visible = (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) != 0;
    const bool local = (flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0;
    const bool cached = (flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT) != 0;
    const bool coherent = (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
    if (kind != MemoryKind::kDevice && !visible) continue;
    int score = 0;
    if (kind == MemoryKind::kDevice) score = (local ? 4 : 0) + (visible ? 0 : 1);
    // Checksums are computed where the host has written. Memory that its caches do not know is read a hundred times as
    // slowly, and device memory behind the bus is no better.
    if (kind == MemoryKind::kUpload) score = (coherent ? 4 : 0) + (local ? 0 : 2) + (cached ? 1 : 0);
    if (kind == MemoryKind::kReadback) score = (cached ? 4 : 0) + (coherent ? 2 : 0);
    candidates.push_back({score, i});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  std::vector<uint32_t> types;
  types.reserve(candidates.size());
  for (const Candidate& c : candidates) types.push_back(c.type);
  return types;
}

Result<DeviceBuffer> DeviceBuffer::create(VulkanDevice& device, uint64_t size, MemoryKind kind) {
  const DeviceFunctions& fn = device.fn();
  DeviceBuffer buffer;
  buffer.device_ = &device;
  buffer.size_ = std::max<uint64_t>(size, 4);
  const std::string what = str_cat("a Vulkan buffer of ", buffer.size_, " bytes");
  if (buffer.size_ > std::min(device.info().max_allocation, device.allocation_limit())) {
    return Status(StatusCode::kOutOfMemory, str_cat(what, " exceeds the device's largest allocation"));
  }
  VkBufferCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.size = buffer.size_;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  share(device, &info);
  NWC_TRY(vk_status(fn.vkCreateBuffer(device.handle(), &info, nullptr, &buffer.buffer_), "vkCreateBuffer"));
  VkMemoryRequirements needs{};
  fn.vkGetBufferMemoryRequirements(device.handle(), buffer.buffer_, &needs);

  VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
  for (uint32_t type : candidate_types(device.memory(), needs.memoryTypeBits, kind)) {
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.allocationSize = needs.size;
    allocate.memoryTypeIndex = type;
    result = fn.vkAllocateMemory(device.handle(), &allocate, nullptr, &buffer.memory_);
    if (result != VK_SUCCESS) {
      buffer.memory_ = VK_NULL_HANDLE;
      continue;
    }
    if (kind != MemoryKind::kDevice) {
      const VkMemoryPropertyFlags flags = device.memory().memoryTypes[type].propertyFlags;
      buffer.coherent_ = (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
      void* pointer = nullptr;
      result = fn.vkMapMemory(device.handle(), buffer.memory_, 0, VK_WHOLE_SIZE, 0, &pointer);
      buffer.mapped_ = static_cast<uint8_t*>(pointer);
    }
    if (result == VK_SUCCESS) break;
    buffer.mapped_ = nullptr;
    fn.vkFreeMemory(device.handle(), buffer.memory_, nullptr);
    buffer.memory_ = VK_NULL_HANDLE;
  }
  if (result != VK_SUCCESS) return vk_status(result, what.c_str());
  NWC_TRY(vk_status(fn.vkBindBufferMemory(device.handle(), buffer.buffer_, buffer.memory_, 0), "vkBindBufferMemory"));
  return buffer;
}

Result<DeviceBuffer> DeviceBuffer::import_host(VulkanDevice& device, Bytes bytes, uint64_t* offset) {
  const DeviceFunctions& fn = device.fn();
  const uint64_t alignment = device.info().import_alignment;
  // Bytes around the given ones are there as far as their pages reach, and no further.
  if (!device.info().host_import || bytes.empty() || alignment > os::page_size()) {
    return unsupported("the Vulkan device imports no memory of the host");
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data()) & ~static_cast<uintptr_t>(alignment - 1);
  *offset = reinterpret_cast<uintptr_t>(bytes.data()) - begin;
  DeviceBuffer buffer;
  buffer.device_ = &device;
  buffer.size_ = align_up(*offset + bytes.size(), alignment);
  const std::string what = str_cat("import of ", buffer.size_, " bytes");
  if (buffer.size_ > std::min(device.info().max_allocation, device.allocation_limit())) {
    return Status(StatusCode::kOutOfMemory, str_cat(what, " exceeds the device's largest allocation"));
  }

  const VkExternalMemoryHandleTypeFlagBits type = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
  VkImportMemoryHostPointerInfoEXT source{};
  source.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
  source.handleType = type;
  source.pHostPointer = reinterpret_cast<void*>(begin);
  VkMemoryHostPointerPropertiesEXT pointer{};
  pointer.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT;
  NWC_TRY(vk_status(fn.vkGetMemoryHostPointerPropertiesEXT(device.handle(), type, source.pHostPointer, &pointer),
                    "vkGetMemoryHostPointerPropertiesEXT"));

  VkExternalMemoryBufferCreateInfo external{};
  external.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO;
  external.handleTypes = type;
  VkBufferCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.pNext = &external;
  info.size = buffer.size_;
  info.usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT;
  share(device, &info);
  NWC_TRY(vk_status(fn.vkCreateBuffer(device.handle(), &info, nullptr, &buffer.buffer_), "vkCreateBuffer"));
  VkMemoryRequirements needs{};
  fn.vkGetBufferMemoryRequirements(device.handle(), buffer.buffer_, &needs);
  if (needs.size > buffer.size_) return unsupported(str_cat(what, ": the device needs ", needs.size));

  const uint32_t allowed = needs.memoryTypeBits & pointer.memoryTypeBits;
  for (uint32_t index : candidate_types(device.memory(), allowed, MemoryKind::kUpload)) {
    // Nobody flushes what the host never maps.
    if ((device.memory().memoryTypes[index].propertyFlags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) == 0) continue;
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.pNext = &source;
    allocate.allocationSize = buffer.size_;
    allocate.memoryTypeIndex = index;
    const VkResult result = fn.vkAllocateMemory(device.handle(), &allocate, nullptr, &buffer.memory_);
    if (result == VK_SUCCESS) {
      NWC_TRY(vk_status(fn.vkBindBufferMemory(device.handle(), buffer.buffer_, buffer.memory_, 0), what.c_str()));
      return buffer;
    }
    buffer.memory_ = VK_NULL_HANDLE;
    if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY) return vk_status(result, what.c_str());
  }
  return unsupported(str_cat(what, ": the Vulkan device has no type of memory for these pages"));
}

Status DeviceBuffer::flush() const {
  if (coherent_ || mapped_ == nullptr) return {};
  VkMappedMemoryRange range{};
  range.sType = VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE;
  range.memory = memory_;
  range.size = VK_WHOLE_SIZE;
  return vk_status(device_->fn().vkFlushMappedMemoryRanges(device_->handle(), 1, &range), "vkFlushMappedMemoryRanges");
}

Status DeviceBuffer::invalidate() const {
  if (coherent_ || mapped_ == nullptr) return {};
  VkMappedMemoryRange range{};
  range.sType = VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE;
  range.memory = memory_;
  range.size = VK_WHOLE_SIZE;
  return vk_status(device_->fn().vkInvalidateMappedMemoryRanges(device_->handle(), 1, &range),
                   "vkInvalidateMappedMemoryRanges");
}

void DeviceBuffer::reset() {
  if (device_ != nullptr && !device_->abandoned()) {
    const DeviceFunctions& fn = device_->fn();
    if (buffer_ != VK_NULL_HANDLE) fn.vkDestroyBuffer(device_->handle(), buffer_, nullptr);
    if (memory_ != VK_NULL_HANDLE) fn.vkFreeMemory(device_->handle(), memory_, nullptr);
  }
  device_ = nullptr;
  buffer_ = VK_NULL_HANDLE;
  memory_ = VK_NULL_HANDLE;
  mapped_ = nullptr;
  size_ = 0;
  coherent_ = true;
}

void DeviceBuffer::swap(DeviceBuffer& other) {
  std::swap(device_, other.device_);
  std::swap(buffer_, other.buffer_);
  std::swap(memory_, other.memory_);
  std::swap(mapped_, other.mapped_);
  std::swap(size_, other.size_);
  std::swap(coherent_, other.coherent_);
}

Status ensure_size(VulkanDevice& device, uint64_t size, MemoryKind kind, DeviceBuffer* buffer) {
  if (buffer->size() >= size && buffer->handle() != VK_NULL_HANDLE) return {};
  uint64_t grown = std::max(size, buffer->size() + buffer->size() / 2);
  if (kind == MemoryKind::kDevice) grown = std::min(grown, std::max(size, device.info().max_storage_range));
  *buffer = DeviceBuffer();
  auto made = DeviceBuffer::create(device, grown, kind);
  if (!made.ok() && grown > size) made = DeviceBuffer::create(device, size, kind);
  if (!made.ok()) return made.status();
  *buffer = std::move(made).value();
  return {};
}

}  // namespace nwc
