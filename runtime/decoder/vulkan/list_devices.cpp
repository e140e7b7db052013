// The functions of decoder.h that say something about Vulkan without its types: devices, and the memory of a decoder.
#include "runtime/decoder/vulkan/vulkan_decoder.h"

namespace nwc {

static_assert(static_cast<int>(VulkanDeviceType::kCpu) == VK_PHYSICAL_DEVICE_TYPE_CPU &&
              static_cast<int>(VulkanDeviceType::kDiscreteGpu) == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU);

uint64_t vulkan_decoder_bytes(const NwcFile& file, const VulkanOptions& options) {
  return VulkanDecoder::max_scratch_bytes(file, options);
}

uint64_t vulkan_integer_bytes(const NwcFile& file, const VulkanOptions& options) {
  return VulkanDecoder::max_integer_bytes(file, options);
}

std::vector<VulkanDeviceInfo> list_vulkan_devices() {
  std::vector<VulkanDeviceInfo> out;
  const auto instance = VulkanInstance::create(false, Logger{});
  if (!instance.ok()) return out;
  const auto devices = list_devices(**instance);
  if (!devices.ok()) return out;
  for (const DeviceInfo& device : *devices) {
    VulkanDeviceInfo info;
    info.index = static_cast<int>(device.index);
    info.name = device.name;
    info.usable = device.reject_reason.empty();
    info.detail = info.usable ? device.driver : device.reject_reason;
    if (device.type <= VK_PHYSICAL_DEVICE_TYPE_CPU) info.type = static_cast<VulkanDeviceType>(device.type);
    info.memory_bytes = device.local_memory;
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace nwc
