// Buffers with memory of their own: on the device, or host-visible for staging.
#pragma once

#include "runtime/base/bytes.h"
#include "runtime/vulkan/device.h"

namespace nwc {

enum class MemoryKind : uint8_t {
  kDevice,    ///< device-local where there is any
  kUpload,    ///< host-visible, written by the host, which computes checksums there; coherent and cached preferred
  kReadback,  ///< host-visible, read by the host; cached preferred
};

/// The memory types of the device that can serve, best first, out of those whose bits are set in `allowed`.
std::vector<uint32_t> candidate_types(const VkPhysicalDeviceMemoryProperties& memory, uint32_t allowed,
                                      MemoryKind kind);

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Storage, source and destination of copies. Falls back to every other memory type that can serve.
  /// Errors: kOutOfMemory, kDevice.
  static Result<DeviceBuffer> create(VulkanDevice& device, uint64_t size, MemoryKind kind);
  ~DeviceBuffer() { reset(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    reset();
    swap(other);
    return *this;
  }

  /// The host's memory as a source of copies, where it lies: a mapped file's, too. The buffer holds the whole pages
  /// around the bytes, which begin at *offset. The pages must stay as they are until the device is done with the
  /// buffer, and remain in memory as long as it exists. Many drivers take no file's pages, or none that are read-only:
  /// have a copy to fall back on. Errors: kUnsupported, kOutOfMemory, kDevice.
  static Result<DeviceBuffer> import_host(VulkanDevice& device, Bytes bytes, uint64_t* offset);

  /// A buffer of size bytes of the device's owner, who keeps it: for storage, and a destination of copies.
  static DeviceBuffer borrow(VkBuffer buffer, uint64_t size) {
    DeviceBuffer borrowed;
    borrowed.buffer_ = buffer;
    borrowed.size_ = size;
    return borrowed;
  }

  VkBuffer handle() const { return buffer_; }
  uint64_t size() const { return size_; }
  /// The whole buffer; empty for kDevice.
  MutableBytes mapped() const { return {mapped_, mapped_ == nullptr ? 0 : static_cast<size_t>(size_)}; }
  /// Make the host's writes visible to the device, or the device's to the host, where memory is not coherent.
  Status flush() const;
  Status invalidate() const;

 private:
  void reset();
  void swap(DeviceBuffer& other);

  VulkanDevice* device_ = nullptr;
  VkBuffer buffer_ = VK_NULL_HANDLE;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
  uint8_t* mapped_ = nullptr;
  uint64_t size_ = 0;
  bool coherent_ = true;
};

/// Makes *buffer at least `size` bytes long; what it held is lost. Grows by at least a half, so that a sequence of
/// windows settles on one allocation; tries the exact size when that fails.
Status ensure_size(VulkanDevice& device, uint64_t size, MemoryKind kind, DeviceBuffer* buffer);

}  // namespace nwc
