// What a device must have, and in which order devices are preferred.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/vulkan/device.h"

namespace nwc {
namespace {

constexpr uint32_t kMinSharedMemory = 16384;
constexpr uint32_t kMinInvocations = 128;
constexpr uint32_t kVendorIntel = 0x8086;

bool has_device_extension(const InstanceFunctions& fn, VkPhysicalDevice device, const char* name) {
  uint32_t count = 0;
  if (fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr) != VK_SUCCESS) return false;
  std::vector<VkExtensionProperties> extensions(count);
  if (fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, extensions.data()) < VK_SUCCESS) return false;
  for (uint32_t i = 0; i < count; ++i) {
    if (std::strcmp(extensions[i].extensionName, name) == 0) return true;
  }
  return false;
}

/// A compute family without graphics is preferred: its work does not wait for anyone's frames.
bool find_compute_queue(const InstanceFunctions& fn, VkPhysicalDevice device, uint32_t* out) {
  uint32_t count = 0;
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  bool found = false;
  for (uint32_t i = 0; i < count; ++i) {
    if (families[i].queueCount == 0 || (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
    const bool dedicated = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) == 0;
    if (!found || dedicated) *out = i;
    found = true;
    if (dedicated) break;
  }
  return found;
}

std::string version_text(uint32_t version) {
  return str_cat(VK_API_VERSION_MAJOR(version), ".", VK_API_VERSION_MINOR(version), ".", VK_API_VERSION_PATCH(version));
}

/// The subgroup size for the ballot kernel: 32 if it can be required, else the size nearest to it.
void choose_subgroup_size(const VkPhysicalDeviceSubgroupSizeControlPropertiesEXT& sizes, uint32_t usual,
                          DeviceInfo* info) {
  info->subgroup_size = usual;
  if (info->size_control && (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0) {
    info->subgroup_size = std::clamp(32u, sizes.minSubgroupSize, sizes.maxSubgroupSize);
    info->max_subgroups = std::max(1u, sizes.maxComputeWorkgroupSubgroups);
  } else {
    info->size_control = false;
  }
  const uint32_t s = info->subgroup_size;
  const bool known = s >= 4 && s <= 128 && (s & (s - 1)) == 0;
  if (!known || (info->quirks.subgroup_size_varies && !info->size_control)) info->ballot = false;
}

DeviceInfo inspect(const VulkanInstance& instance, VkPhysicalDevice device, uint32_t index) {
  const InstanceFunctions& fn = instance.fn();
  DeviceInfo info;
  info.physical = device;
  info.index = index;
  VkPhysicalDeviceProperties basic{};
  fn.vkGetPhysicalDeviceProperties(device, &basic);
  info.name = basic.deviceName;
  info.type = basic.deviceType;
  info.api_version = basic.apiVersion;
  info.max_storage_range = basic.limits.maxStorageBufferRange;
  info.offset_alignment =
      static_cast<uint32_t>(std::max<VkDeviceSize>(1, basic.limits.minStorageBufferOffsetAlignment));
  info.max_shared_memory = basic.limits.maxComputeSharedMemorySize;
  info.driver = str_cat("Vulkan ", version_text(basic.apiVersion));
  info.quirks.software = basic.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
  info.quirks.subgroup_size_varies = basic.vendorID == kVendorIntel;

  if (basic.apiVersion < VK_API_VERSION_1_1) {
    info.reject_reason = str_cat("has Vulkan ", version_text(basic.apiVersion), ", 1.1 is required");
    return info;
  }
  info.size_control = has_device_extension(fn, device, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  info.portability_subset = has_device_extension(fn, device, "VK_KHR_portability_subset");

  VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes{};
  sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT;
  VkPhysicalDeviceMaintenance3Properties allocation{};
  allocation.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  allocation.pNext = info.size_control ? &sizes : nullptr;
  VkPhysicalDeviceSubgroupProperties subgroups{};
  subgroups.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  subgroups.pNext = &allocation;
  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties.pNext = &subgroups;
  fn.vkGetPhysicalDeviceProperties2(device, &properties);
  info.max_allocation = allocation.maxMemoryAllocationSize;

  if (info.size_control) {
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control{};
    control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
    VkPhysicalDeviceFeatures2 features{};
    features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    features.pNext = &control;
    fn.vkGetPhysicalDeviceFeatures2(device, &features);
    info.size_control = control.subgroupSizeControl == VK_TRUE;
    info.full_subgroups = control.computeFullSubgroups == VK_TRUE;
  }
  const VkSubgroupFeatureFlags wanted = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT;
  info.ballot = (subgroups.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
                (subgroups.supportedOperations & wanted) == wanted;
  choose_subgroup_size(sizes, subgroups.subgroupSize, &info);

  VkPhysicalDeviceMemoryProperties memory{};
  fn.vkGetPhysicalDeviceMemoryProperties(device, &memory);
  for (uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
    if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0) {
      info.local_memory = std::max<uint64_t>(info.local_memory, memory.memoryHeaps[i].size);
    }
  }
  if (!find_compute_queue(fn, device, &info.queue_family)) {
    info.reject_reason = "has no compute queue";
  } else if (info.max_shared_memory < kMinSharedMemory) {
    info.reject_reason = str_cat("has ", info.max_shared_memory, " bytes of shared memory, 16384 are required");
  } else if (basic.limits.maxComputeWorkGroupInvocations < kMinInvocations ||
             basic.limits.maxComputeWorkGroupSize[0] < kMinInvocations) {
    info.reject_reason = "allows fewer than 128 invocations in a workgroup";
  } else if (basic.limits.maxPerStageDescriptorStorageBuffers < 4 || basic.limits.maxPushConstantsSize < 128) {
    info.reject_reason = "allows fewer than 4 storage buffers or less than 128 bytes of push constants";
  }
  return info;
}

int type_rank(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return 0;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return 1;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return 2;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return 3;
    default: return 4;
  }
}

}  // namespace

const char* device_type_name(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return "discrete GPU";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return "integrated GPU";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return "virtual GPU";
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return "CPU";
    default: return "other";
  }
}

Result<std::vector<DeviceInfo>> list_devices(const VulkanInstance& instance) {
  NWC_ASSIGN_OR_RETURN(const std::vector<VkPhysicalDevice> handles, instance.physical_devices());
  std::vector<DeviceInfo> devices;
  const auto better = [](const DeviceInfo& a, const DeviceInfo& b) {
    if (a.reject_reason.empty() != b.reject_reason.empty()) return a.reject_reason.empty();
    if (type_rank(a.type) != type_rank(b.type)) return type_rank(a.type) < type_rank(b.type);
    return a.local_memory > b.local_memory;
  };
  for (size_t i = 0; i < handles.size(); ++i) {
    DeviceInfo info = inspect(instance, handles[i], static_cast<uint32_t>(i));
    const auto place =
        std::find_if(devices.begin(), devices.end(), [&](const DeviceInfo& d) { return better(info, d); });
    devices.insert(place, std::move(info));
  }
  return devices;
}

Result<DeviceInfo> choose_device(const VulkanInstance& instance, const DeviceChoice& choice) {
  NWC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, list_devices(instance));
  if (devices.empty()) return Status(StatusCode::kNoDevice, "Vulkan lists no device: install a driver");
  int index = choice.index;
  std::string name = choice.name;
  if (index < 0 && name.empty()) {
    const char* named = std::getenv("NWC_VULKAN_DEVICE");
    if (named != nullptr) name = named;
    if (!name.empty() && name.size() <= 4 &&
        std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0; })) {
      index = std::atoi(name.c_str());
      name.clear();
    }
  }
  std::string reasons;
  for (const DeviceInfo& device : devices) {
    std::string reason = device.reject_reason;
    if (index >= 0 && device.index != static_cast<uint32_t>(index)) {
      reason = str_cat("is number ", device.index, ", ", index, " was asked for");
    } else if (!name.empty() && device.name.find(name) == std::string::npos) {
      reason = str_cat("does not have \"", name, "\" in its name");
    } else if (reason.empty() && !choice.software && device.type == VK_PHYSICAL_DEVICE_TYPE_CPU) {
      reason = "is a software renderer";
    }
    if (reason.empty()) return device;
    reasons += str_cat((reasons.empty() ? "" : "; "), device.name, " ", reason);
  }
  return Status(StatusCode::kNoDevice, str_cat("no suitable Vulkan device: ", reasons));
}

}  // namespace nwc
