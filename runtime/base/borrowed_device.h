// A Vulkan device of the caller's, on which nwc works instead of one that it makes. No Vulkan header is needed here, so
// that those who hand it on need none.
#pragma once

#include <cstdint>

struct VkInstance_T;
struct VkPhysicalDevice_T;
struct VkDevice_T;
struct VkQueue_T;
struct VkDeviceCreateInfo;

namespace nwc {

/// Everything outlives what works with it, but for created_with, which is read at the beginning only.
struct BorrowedDevice {
  VkInstance_T* instance = nullptr;  ///< made for Vulkan 1.1 or later
  VkPhysicalDevice_T* physical_device = nullptr;
  VkDevice_T* device = nullptr;  ///< null: nothing is borrowed
  VkQueue_T* queue = nullptr;    ///< of a family that computes
  uint32_t queue_family = 0;
  /// What the device was made with; null: without extensions and features.
  const VkDeviceCreateInfo* created_with = nullptr;
  /// PFN_vkGetInstanceProcAddr; null: that of the loader library that is found.
  void (*(*get_instance_proc_addr)(VkInstance_T* instance, const char* name))() = nullptr;
  /// Called around every use of the queue; null: nobody else uses it meanwhile.
  void (*lock_queue)(void* user) = nullptr;
  void (*unlock_queue)(void* user) = nullptr;
  void* user = nullptr;

  explicit operator bool() const { return device != nullptr; }
};

}  // namespace nwc
