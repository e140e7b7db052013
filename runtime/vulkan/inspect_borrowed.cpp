// What a borrowed device can do: what the driver has, less what its owner has not enabled.

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/vulkan/device.h"

namespace nwc {
namespace {

/// A device can do only what it was made for, whatever the driver has.
struct Enabled {
  bool size_control = false, full_subgroups = false, storage16 = false, dot_product = false, host_import = false;
};

template <typename T>
const T& as(const VkBaseInStructure& s) {
  return *reinterpret_cast<const T*>(&s);
}

Enabled enabled_by(const VkDeviceCreateInfo* info) {
  Enabled enabled;
  if (info == nullptr) return enabled;
  for (uint32_t i = 0; i < info->enabledExtensionCount; ++i) {
    if (std::strcmp(info->ppEnabledExtensionNames[i], VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME) == 0)
      enabled.host_import = true;
  }
  for (auto* s = static_cast<const VkBaseInStructure*>(info->pNext); s != nullptr; s = s->pNext) {
    switch (s->sType) {
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT: {
        const auto& f = as<VkPhysicalDeviceSubgroupSizeControlFeaturesEXT>(*s);
        enabled.size_control = f.subgroupSizeControl == VK_TRUE;
        enabled.full_subgroups = f.computeFullSubgroups == VK_TRUE;
        break;
      }
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES:
        enabled.storage16 = as<VkPhysicalDevice16BitStorageFeatures>(*s).storageBuffer16BitAccess == VK_TRUE;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES_KHR:
        enabled.dot_product =
            as<VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR>(*s).shaderIntegerDotProduct == VK_TRUE;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES:
        enabled.storage16 = as<VkPhysicalDeviceVulkan11Features>(*s).storageBuffer16BitAccess == VK_TRUE;
        break;
      case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES: {
        const auto& f = as<VkPhysicalDeviceVulkan13Features>(*s);
        enabled.size_control = f.subgroupSizeControl == VK_TRUE;
        enabled.full_subgroups = f.computeFullSubgroups == VK_TRUE;
        enabled.dot_product = f.shaderIntegerDotProduct == VK_TRUE;
        break;
      }
      default: break;
    }
  }
  return enabled;
}

}  // namespace

Result<DeviceInfo> inspect_borrowed(const VulkanInstance& instance, const BorrowedDevice& borrowed,
                                    FeatureChoice choice) {
  NWC_ASSIGN_OR_RETURN(const std::vector<VkPhysicalDevice> devices, instance.physical_devices());
  const auto found = std::find(devices.begin(), devices.end(), borrowed.physical_device);
  if (found == devices.end()) return invalid_argument("the physical device is not one of the Vulkan instance's");

  const Enabled enabled = enabled_by(borrowed.created_with);
  const auto forbid = [&](bool there, DeviceFeature feature) {
    if (!there) choice.disabled |= static_cast<FeatureMask>(feature);
  };
  forbid(enabled.size_control, DeviceFeature::kSizeControl);
  forbid(enabled.storage16, DeviceFeature::kStorage16);
  forbid(enabled.dot_product, DeviceFeature::kDotProduct);
  forbid(enabled.host_import, DeviceFeature::kHostImport);
  forbid(false, DeviceFeature::kQueues);
  DeviceInfo info = inspect_device(instance, *found, static_cast<uint32_t>(found - devices.begin()), choice);
  if (!info.reject_reason.empty())
    return Status(StatusCode::kNoDevice, str_cat("the Vulkan device ", info.name, " ", info.reject_reason));
  info.full_subgroups = info.full_subgroups && enabled.full_subgroups;

  const InstanceFunctions& fn = instance.fn();
  uint32_t count = 0;
  fn.vkGetPhysicalDeviceQueueFamilyProperties(*found, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  fn.vkGetPhysicalDeviceQueueFamilyProperties(*found, &count, families.data());
  const uint32_t family = borrowed.queue_family;
  if (family >= count || (families[family].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0)
    return invalid_argument(str_cat("the queue's family ", family, " does not compute"));
  info.queue = {family, 0, families[family].timestampValidBits};
  return info;
}

}  // namespace nwc
