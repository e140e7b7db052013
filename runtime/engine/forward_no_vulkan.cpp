// Stands in for forward_vulkan.cpp in builds without Vulkan.
#include "runtime/engine/forward.h"

namespace nwc {

Result<std::unique_ptr<Forward>> create_vulkan_forward(const ForwardInputs&, const Progress&) {
  return Status(StatusCode::kNoDevice, "this library was built without Vulkan: run the model on the CPU");
}

}  // namespace nwc
