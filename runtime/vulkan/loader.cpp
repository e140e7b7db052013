#include "runtime/vulkan/loader.h"

#include <dlfcn.h>

#include <cstdlib>

namespace nwc {

Result<std::shared_ptr<VulkanLibrary>> VulkanLibrary::load() {
  std::shared_ptr<VulkanLibrary> library(new VulkanLibrary());
  const char* named = std::getenv("NWC_VULKAN_LIBRARY");
  std::string tried;
  if (named != nullptr && *named != '\0') {
    library->handle_ = dlopen(named, RTLD_NOW | RTLD_LOCAL);
    tried = named;
  } else {
#ifdef __APPLE__
    const char* const names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"};
#else
    const char* const names[] = {"libvulkan.so.1", "libvulkan.so"};
#endif
    for (const char* name : names) {
      library->handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      tried += (tried.empty() ? "" : ", ") + std::string(name);
      if (library->handle_ != nullptr) break;
    }
  }
  if (library->handle_ == nullptr) {
    return Status(StatusCode::kNoDevice, "no Vulkan loader (tried " + tried + "): install one, or decode on the CPU");
  }
  library->get_instance_proc_addr_ =
      reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library->handle_, "vkGetInstanceProcAddr"));
  if (library->get_instance_proc_addr_ == nullptr) {
    return Status(StatusCode::kNoDevice, tried + " has no vkGetInstanceProcAddr: not a Vulkan loader");
  }
#define NWC_VK_LOAD(name)                                                                                          \
  library->global_.name = reinterpret_cast<PFN_##name>(library->get_instance_proc_addr_(nullptr, #name));          \
  if (library->global_.name == nullptr) {                                                                          \
    return Status(StatusCode::kNoDevice, "the Vulkan loader lacks " #name " (Vulkan 1.1 is required): update it"); \
  }
  NWC_VK_GLOBAL_FUNCTIONS(NWC_VK_LOAD)
#undef NWC_VK_LOAD
  return library;
}

VulkanLibrary::~VulkanLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

Status VulkanLibrary::load_instance(VkInstance instance, InstanceFunctions* out) const {
  // vkDestroyInstance first: whoever sees an error can still clean up.
#define NWC_VK_LOAD(name)                                                                           \
  out->name = reinterpret_cast<PFN_##name>(get_instance_proc_addr_(instance, #name));               \
  if (out->name == nullptr) {                                                                       \
    return Status(StatusCode::kNoDevice, "the Vulkan instance lacks " #name ": update the driver"); \
  }
  NWC_VK_INSTANCE_FUNCTIONS(NWC_VK_LOAD)
#undef NWC_VK_LOAD
  out->vkCreateDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(
      get_instance_proc_addr_(instance, "vkCreateDebugUtilsMessengerEXT"));
  out->vkDestroyDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
      get_instance_proc_addr_(instance, "vkDestroyDebugUtilsMessengerEXT"));
  return {};
}

Status VulkanLibrary::load_device(VkDevice device, const InstanceFunctions& instance, DeviceFunctions* out) {
#define NWC_VK_LOAD(name)                                                                         \
  out->name = reinterpret_cast<PFN_##name>(instance.vkGetDeviceProcAddr(device, #name));          \
  if (out->name == nullptr) {                                                                     \
    return Status(StatusCode::kNoDevice, "the Vulkan device lacks " #name ": update the driver"); \
  }
  NWC_VK_DEVICE_FUNCTIONS(NWC_VK_LOAD)
#undef NWC_VK_LOAD
  return {};
}

std::string vk_result_name(VkResult result) {
  switch (result) {
    case VK_SUCCESS: return "VK_SUCCESS";
    case VK_TIMEOUT: return "VK_TIMEOUT";
    case VK_ERROR_OUT_OF_HOST_MEMORY: return "VK_ERROR_OUT_OF_HOST_MEMORY";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
    case VK_ERROR_INITIALIZATION_FAILED: return "VK_ERROR_INITIALIZATION_FAILED";
    case VK_ERROR_DEVICE_LOST: return "VK_ERROR_DEVICE_LOST";
    case VK_ERROR_MEMORY_MAP_FAILED: return "VK_ERROR_MEMORY_MAP_FAILED";
    case VK_ERROR_LAYER_NOT_PRESENT: return "VK_ERROR_LAYER_NOT_PRESENT";
    case VK_ERROR_EXTENSION_NOT_PRESENT: return "VK_ERROR_EXTENSION_NOT_PRESENT";
    case VK_ERROR_FEATURE_NOT_PRESENT: return "VK_ERROR_FEATURE_NOT_PRESENT";
    case VK_ERROR_INCOMPATIBLE_DRIVER: return "VK_ERROR_INCOMPATIBLE_DRIVER";
    case VK_ERROR_TOO_MANY_OBJECTS: return "VK_ERROR_TOO_MANY_OBJECTS";
    default: return "VkResult " + std::to_string(static_cast<int>(result));
  }
}

Status vk_status(VkResult result, const char* what) {
  if (result == VK_SUCCESS) return {};
  StatusCode code = StatusCode::kDevice;
  if (result == VK_ERROR_DEVICE_LOST) code = StatusCode::kDeviceLost;
  if (result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY ||
      result == VK_ERROR_TOO_MANY_OBJECTS || result == VK_ERROR_MEMORY_MAP_FAILED) {
    code = StatusCode::kOutOfMemory;
  }
  return Status(code, std::string(what) + ": " + vk_result_name(result));
}

}  // namespace nwc
