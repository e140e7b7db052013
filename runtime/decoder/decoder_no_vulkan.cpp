// The Vulkan half of decoder.h for builds without Vulkan.
#include "runtime/decoder/decoder.h"

namespace nwc {

Result<std::unique_ptr<Decoder>> create_vulkan_decoder(const NwcFile&, Runner&, const VulkanOptions&, const Logger&) {
  return Status(StatusCode::kNoDevice, "built without Vulkan: configure with NWC_VULKAN=ON, or decode on the CPU");
}

uint64_t vulkan_decoder_bytes(const NwcFile&, const VulkanOptions&) { return 0; }
uint64_t vulkan_integer_bytes(const NwcFile&, const VulkanOptions&) { return 0; }

std::vector<VulkanDeviceInfo> list_vulkan_devices() { return {}; }

std::string describe_vulkan_devices() { return "built without Vulkan\n"; }

}  // namespace nwc
