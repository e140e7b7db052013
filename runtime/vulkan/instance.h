// A Vulkan instance, with the validation layer where asked for.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "runtime/base/borrowed_device.h"
#include "runtime/base/log.h"
#include "runtime/vulkan/loader.h"

namespace nwc {

class VulkanInstance {
 public:
  /// With `validation`, VK_LAYER_KHRONOS_validation is enabled, and with it the validation of synchronization. Its
  /// warnings and errors go to the log as errors. If the layer is not installed, a warning is logged. Errors:
  /// kNoDevice.
  static Result<std::unique_ptr<VulkanInstance>> create(bool validation, const Logger& log);
  /// The instance of a borrowed device, which is not destroyed. Errors: kInvalidArgument (a handle is missing),
  /// kNoDevice (no loader library, or a function is missing).
  static Result<std::unique_ptr<VulkanInstance>> borrow(const BorrowedDevice& device, const Logger& log);
  ~VulkanInstance();
  VulkanInstance(const VulkanInstance&) = delete;
  VulkanInstance& operator=(const VulkanInstance&) = delete;

  const InstanceFunctions& fn() const { return fn_; }
  const VulkanLibrary& library() const { return *library_; }
  const Logger& log() const { return log_; }
  bool validation_enabled() const { return messenger_ != VK_NULL_HANDLE; }
  /// Messages of the validation layer so far.
  uint64_t validation_messages() const { return validation_messages_.load(); }
  Result<std::vector<VkPhysicalDevice>> physical_devices() const;

  /// Vulkan's instance and its library stay to the end of the process: a device that hangs may still use them.
  void leave_behind();

 private:
  VulkanInstance() = default;
  static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                   VkDebugUtilsMessageTypeFlagsEXT types,
                                                   const VkDebugUtilsMessengerCallbackDataEXT* data, void* user);

  std::shared_ptr<VulkanLibrary> library_;
  InstanceFunctions fn_;
  VkInstance handle_ = VK_NULL_HANDLE;
  bool borrowed_ = false;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  Logger log_;
  std::atomic<uint64_t> validation_messages_{0};
};

}  // namespace nwc
