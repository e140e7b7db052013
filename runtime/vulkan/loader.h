// Vulkan's entry points, found at run time: a machine without Vulkan is an error value, not a failure to start.
#pragma once

#include <vulkan/vulkan.h>

#include <memory>
#include <string>

#include "runtime/base/status.h"

namespace nwc {

// clang-format off
#define NWC_VK_GLOBAL_FUNCTIONS(X) \
  X(vkCreateInstance) X(vkEnumerateInstanceVersion) X(vkEnumerateInstanceExtensionProperties) \
  X(vkEnumerateInstanceLayerProperties)
#define NWC_VK_INSTANCE_FUNCTIONS(X) \
  X(vkDestroyInstance) X(vkEnumeratePhysicalDevices) X(vkGetPhysicalDeviceProperties) \
  X(vkGetPhysicalDeviceProperties2) X(vkGetPhysicalDeviceFeatures2) X(vkGetPhysicalDeviceMemoryProperties) \
  X(vkGetPhysicalDeviceQueueFamilyProperties) X(vkEnumerateDeviceExtensionProperties) X(vkCreateDevice) \
  X(vkGetDeviceProcAddr)
#define NWC_VK_DEVICE_FUNCTIONS(X) \
  X(vkDestroyDevice) X(vkGetDeviceQueue) X(vkDeviceWaitIdle) X(vkQueueSubmit) \
  X(vkCreateBuffer) X(vkDestroyBuffer) X(vkGetBufferMemoryRequirements) X(vkAllocateMemory) X(vkFreeMemory) \
  X(vkBindBufferMemory) X(vkMapMemory) X(vkFlushMappedMemoryRanges) X(vkInvalidateMappedMemoryRanges) \
  X(vkCreateShaderModule) X(vkDestroyShaderModule) X(vkCreateDescriptorSetLayout) X(vkDestroyDescriptorSetLayout) \
  X(vkCreatePipelineLayout) X(vkDestroyPipelineLayout) X(vkCreateComputePipelines) X(vkDestroyPipeline) \
  X(vkCreatePipelineCache) X(vkDestroyPipelineCache) X(vkGetPipelineCacheData) \
  X(vkCreateDescriptorPool) X(vkDestroyDescriptorPool) X(vkAllocateDescriptorSets) X(vkUpdateDescriptorSets) \
  X(vkCreateCommandPool) X(vkDestroyCommandPool) X(vkAllocateCommandBuffers) X(vkResetCommandPool) \
  X(vkBeginCommandBuffer) X(vkEndCommandBuffer) X(vkCmdBindPipeline) X(vkCmdBindDescriptorSets) \
  X(vkCmdPushConstants) X(vkCmdDispatch) X(vkCmdCopyBuffer) X(vkCmdFillBuffer) X(vkCmdPipelineBarrier) \
  X(vkCreateFence) X(vkDestroyFence) X(vkResetFences) X(vkWaitForFences) \
  X(vkCreateQueryPool) X(vkDestroyQueryPool) X(vkGetQueryPoolResults) X(vkCmdResetQueryPool) X(vkCmdWriteTimestamp)
// clang-format on

#define NWC_VK_MEMBER(name) PFN_##name name = nullptr;
struct GlobalFunctions {
  NWC_VK_GLOBAL_FUNCTIONS(NWC_VK_MEMBER)
};
struct InstanceFunctions {
  NWC_VK_INSTANCE_FUNCTIONS(NWC_VK_MEMBER)
  // Only with VK_EXT_debug_utils.
  PFN_vkCreateDebugUtilsMessengerEXT vkCreateDebugUtilsMessengerEXT = nullptr;
  PFN_vkDestroyDebugUtilsMessengerEXT vkDestroyDebugUtilsMessengerEXT = nullptr;
};
struct DeviceFunctions {
  NWC_VK_DEVICE_FUNCTIONS(NWC_VK_MEMBER)
  // Only with VK_EXT_external_memory_host.
  PFN_vkGetMemoryHostPointerPropertiesEXT vkGetMemoryHostPointerPropertiesEXT = nullptr;
};
#undef NWC_VK_MEMBER

/// The Vulkan loader library, open as long as the object lives.
class VulkanLibrary {
 public:
  /// Environment variable NWC_VULKAN_LIBRARY names another library than the system's. Errors: kNoDevice.
  static Result<std::shared_ptr<VulkanLibrary>> load();
  /// For an instance that somebody else has made: the functions come from him, and no library is loaded. There are no
  /// global functions.
  static std::shared_ptr<VulkanLibrary> borrow(PFN_vkGetInstanceProcAddr get_instance_proc_addr);
  ~VulkanLibrary();
  VulkanLibrary(const VulkanLibrary&) = delete;
  VulkanLibrary& operator=(const VulkanLibrary&) = delete;

  /// Does not close the library: code of a driver that still runs must not go away.
  void keep_open() { handle_ = nullptr; }

  const GlobalFunctions& global() const { return global_; }
  /// Errors: kNoDevice, naming the missing function.
  Status load_instance(VkInstance instance, InstanceFunctions* out) const;
  static Status load_device(VkDevice device, const InstanceFunctions& instance, DeviceFunctions* out);

 private:
  VulkanLibrary() = default;
  void* handle_ = nullptr;
  PFN_vkGetInstanceProcAddr get_instance_proc_addr_ = nullptr;
  GlobalFunctions global_;
};

/// "VK_ERROR_DEVICE_LOST", or the number.
std::string vk_result_name(VkResult result);
/// kOutOfMemory, kDeviceLost or kDevice; `what` names the call. VK_SUCCESS gives ok.
Status vk_status(VkResult result, const char* what);

}  // namespace nwc
