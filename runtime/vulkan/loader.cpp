#include "runtime/vulkan/loader.h"

#include <cstdlib>
#include <cstring>

#include "runtime/base/os.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

// Names in the order of the members, each ended by NUL, the list by an empty one.
#define NWC_VK_NAME(name) #name "\0"
constexpr char kGlobalNames[] = NWC_VK_GLOBAL_FUNCTIONS(NWC_VK_NAME);
constexpr char kInstanceNames[] = NWC_VK_INSTANCE_FUNCTIONS(NWC_VK_NAME);
constexpr char kDeviceNames[] = NWC_VK_DEVICE_FUNCTIONS(NWC_VK_NAME);
#undef NWC_VK_NAME

/// Fills the members of a struct of functions, from its first, with find(name). Returns the name of one that is not
/// there, or nullptr.
template <typename Functions, typename Find>
const char* load_functions(const char* names, Functions* out, Find&& find) {
  auto* member = reinterpret_cast<unsigned char*>(out);
  for (; *names != '\0'; names += std::strlen(names) + 1, member += sizeof(PFN_vkVoidFunction)) {
    const PFN_vkVoidFunction function = find(names);
    if (function == nullptr) return names;
    std::memcpy(member, &function, sizeof function);
  }
  return nullptr;
}

}  // namespace

Result<std::shared_ptr<VulkanLibrary>> VulkanLibrary::load() {
  std::shared_ptr<VulkanLibrary> library(new VulkanLibrary());
  const char* named = std::getenv("NWC_VULKAN_LIBRARY");
  std::string tried;
  if (named != nullptr && *named != '\0') {
    library->handle_ = os::open_library(named);
    tried = named;
  } else {
    for (const char* name = os::kVulkanLibraries; *name != '\0'; name += std::strlen(name) + 1) {
      library->handle_ = os::open_library(name);
      tried += str_cat((tried.empty() ? "" : ", "), name);
      if (library->handle_ != nullptr) break;
    }
  }
  if (library->handle_ == nullptr) {
    return Status(StatusCode::kNoDevice,
                  str_cat("no Vulkan loader (tried ", tried, "): install one, or decode on the CPU"));
  }
  library->get_instance_proc_addr_ =
      reinterpret_cast<PFN_vkGetInstanceProcAddr>(os::library_symbol(library->handle_, "vkGetInstanceProcAddr"));
  if (library->get_instance_proc_addr_ == nullptr) {
    return Status(StatusCode::kNoDevice, str_cat(tried, " has no vkGetInstanceProcAddr: not a Vulkan loader"));
  }
  const char* missing = load_functions(kGlobalNames, &library->global_, [&](const char* name) {
    return library->get_instance_proc_addr_(nullptr, name);
  });
  if (missing != nullptr) {
    return Status(StatusCode::kNoDevice,
                  str_cat("the Vulkan loader lacks ", missing, " (Vulkan 1.1 is required): update it"));
  }
  return library;
}

std::shared_ptr<VulkanLibrary> VulkanLibrary::borrow(PFN_vkGetInstanceProcAddr get_instance_proc_addr) {
  std::shared_ptr<VulkanLibrary> library(new VulkanLibrary());
  library->get_instance_proc_addr_ = get_instance_proc_addr;
  return library;
}

VulkanLibrary::~VulkanLibrary() {
  if (handle_ != nullptr) os::close_library(handle_);
}

Status VulkanLibrary::load_instance(VkInstance instance, InstanceFunctions* out) const {
  // vkDestroyInstance first: whoever sees an error can still clean up.
  const char* missing =
      load_functions(kInstanceNames, out, [&](const char* name) { return get_instance_proc_addr_(instance, name); });
  if (missing != nullptr) {
    return Status(StatusCode::kNoDevice, str_cat("the Vulkan instance lacks ", missing, ": update the driver"));
  }
  out->vkCreateDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(
      get_instance_proc_addr_(instance, "vkCreateDebugUtilsMessengerEXT"));
  out->vkDestroyDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
      get_instance_proc_addr_(instance, "vkDestroyDebugUtilsMessengerEXT"));
  return {};
}

Status VulkanLibrary::load_device(VkDevice device, const InstanceFunctions& instance, DeviceFunctions* out) {
  const char* missing =
      load_functions(kDeviceNames, out, [&](const char* name) { return instance.vkGetDeviceProcAddr(device, name); });
  out->vkGetMemoryHostPointerPropertiesEXT = reinterpret_cast<PFN_vkGetMemoryHostPointerPropertiesEXT>(
      instance.vkGetDeviceProcAddr(device, "vkGetMemoryHostPointerPropertiesEXT"));
  if (missing == nullptr) return {};
  return Status(StatusCode::kNoDevice, str_cat("the Vulkan device lacks ", missing, ": update the driver"));
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
    default: return str_cat("VkResult ", static_cast<int>(result));
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
  return Status(code, str_cat(what, ": ", vk_result_name(result)));
}

}  // namespace nwc
