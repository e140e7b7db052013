// Stands in for forward_vulkan.cpp and device_rates_vulkan.cpp in builds without Vulkan.
#include "runtime/engine/device_rates.h"
#include "runtime/engine/forward.h"

namespace nwc {

Result<std::unique_ptr<Forward>> create_vulkan_forward(const ForwardInputs&, const Progress&) {
  return Status(StatusCode::kNoDevice, "this library was built without Vulkan: run the model on the CPU");
}

Result<double> device_memory_rate(Decoder&) { return Status(StatusCode::kNoDevice, "built without Vulkan"); }

Result<double> device_fused_rate(const NwcFile&, Decoder&, uint64_t) {
  return Status(StatusCode::kNoDevice, "built without Vulkan");
}

uint64_t vulkan_fused_bytes(const NwcFile&, std::span<const size_t>, uint64_t) { return 0; }

}  // namespace nwc
