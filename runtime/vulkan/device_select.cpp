// The requirements that a device must meet, and the order in which devices are preferred.
#include <algorithm>
#include <bit>
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
constexpr uint32_t kDotSharedMemory = 32768;  // integers_few_dot and integers_many_dot take 20 KiB at most

/// The names of a device's extensions.
class ExtensionList {
 public:
  ExtensionList(const InstanceFunctions& fn, VkPhysicalDevice device) {
    uint32_t count = 0;
    if (fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr) != VK_SUCCESS) return;
    names_.resize(count);
    if (fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, names_.data()) < VK_SUCCESS) count = 0;
    names_.resize(count);
  }
  bool has(const char* name) const {
    return std::any_of(names_.begin(), names_.end(),
                       [&](const VkExtensionProperties& e) { return std::strcmp(e.extensionName, name) == 0; });
  }

 private:
  std::vector<VkExtensionProperties> names_;
};

/// A compute family without graphics is preferred: its work does not wait for anyone's frames. Further queues are the
/// family's own, else another's.
bool find_compute_queues(const InstanceFunctions& fn, VkPhysicalDevice device, bool several, DeviceInfo* info) {
  uint32_t count = 0;
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  const auto computes = [&](uint32_t i) {
    return families[i].queueCount != 0 && (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) != 0;
  };
  bool found = false;
  for (uint32_t i = 0; i < count; ++i) {
    if (!computes(i)) continue;
    const bool dedicated = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) == 0;
    if (!found || dedicated) info->queue = {i, 0, families[i].timestampValidBits};
    found = true;
    if (dedicated) break;
  }
  if (!found || !several) return found;
  const uint32_t own = info->queue.family;
  const auto take = [&](uint32_t family, uint32_t first) {
    const uint32_t end = std::min(first + kDecodeQueues, families[family].queueCount);
    for (uint32_t i = first; i < end; ++i)
      info->decode_queues.push_back({family, i, families[family].timestampValidBits});
  };
  take(own, 1);
  for (uint32_t i = 0; i < count && info->decode_queues.empty(); ++i) {
    if (i != own && computes(i)) take(i, 0);
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

/// Reads the device's properties of subgroups, 16-bit storage, host memory and dot products.
void query_features(const InstanceFunctions& fn, const ExtensionList& extensions, const FeatureChoice& choice,
                    DeviceInfo* info) {
  const auto wanted = [&](DeviceFeature feature) { return !has(choice.disabled, feature); };
  info->size_control =
      wanted(DeviceFeature::kSizeControl) && extensions.has(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  info->host_import = wanted(DeviceFeature::kHostImport) && extensions.has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
  info->pipeline_cache = wanted(DeviceFeature::kPipelineCache);
  info->dot_product = wanted(DeviceFeature::kDotProduct) && info->max_shared_memory >= kDotSharedMemory &&
                      extensions.has(VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);

  VkPhysicalDeviceMaintenance3Properties allocation{};
  allocation.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  VkPhysicalDeviceSubgroupProperties subgroups{};
  subgroups.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  subgroups.pNext = &allocation;
  VkPhysicalDeviceIDProperties id{};
  id.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES;
  id.pNext = &subgroups;
  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties.pNext = &id;
  VkPhysicalDevice16BitStorageFeatures storage16{};
  storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
  VkPhysicalDeviceFeatures2 features{};
  features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  features.pNext = &storage16;
  // Structs of extensions only where the extension is.
  VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes{};
  sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control{};
  control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  if (info->size_control) {
    sizes.pNext = properties.pNext;
    properties.pNext = &sizes;
    control.pNext = features.pNext;
    features.pNext = &control;
  }
  VkPhysicalDeviceExternalMemoryHostPropertiesEXT host{};
  host.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT;
  if (info->host_import) {
    host.pNext = properties.pNext;
    properties.pNext = &host;
  }
  VkPhysicalDeviceShaderIntegerDotProductPropertiesKHR dot_speed{};
  dot_speed.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES_KHR;
  VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR dots{};
  dots.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES_KHR;
  if (info->dot_product) {
    dot_speed.pNext = properties.pNext;
    properties.pNext = &dot_speed;
    dots.pNext = features.pNext;
    features.pNext = &dots;
  }
  fn.vkGetPhysicalDeviceProperties2(info->physical, &properties);
  fn.vkGetPhysicalDeviceFeatures2(info->physical, &features);

  std::copy_n(id.deviceUUID, VK_UUID_SIZE, info->identity.device_uuid.begin());
  std::copy_n(id.driverUUID, VK_UUID_SIZE, info->identity.driver_uuid.begin());
  info->max_allocation = allocation.maxMemoryAllocationSize;
  info->import_alignment = host.minImportedHostPointerAlignment;
  info->host_import = info->host_import && std::has_single_bit(info->import_alignment);
  info->storage16 = wanted(DeviceFeature::kStorage16) && storage16.storageBuffer16BitAccess == VK_TRUE;
  info->size_control = control.subgroupSizeControl == VK_TRUE;
  info->full_subgroups = control.computeFullSubgroups == VK_TRUE;
  info->dot_product =
      dots.shaderIntegerDotProduct == VK_TRUE && (dot_speed.integerDotProduct4x8BitPackedSignedAccelerated == VK_TRUE ||
                                                  has(choice.forced, DeviceFeature::kDotProduct));
  const VkSubgroupFeatureFlags ballot = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT;
  info->ballot = wanted(DeviceFeature::kBallot) && (subgroups.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
                 (subgroups.supportedOperations & ballot) == ballot;
  choose_subgroup_size(sizes, subgroups.subgroupSize, info);
}

/// Those named, and those that the environment names.
Result<FeatureMask> features_named(const std::string& names, const char* variable) {
  NWC_ASSIGN_OR_RETURN(const FeatureMask mask, parse_features(names));
  const char* const more = std::getenv(variable);
  if (more == nullptr) return mask;
  const auto parsed = parse_features(more);
  if (!parsed.ok()) return parsed.status().with_context(variable);
  return mask | *parsed;
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

DeviceInfo inspect_device(const VulkanInstance& instance, VkPhysicalDevice device, uint32_t index,
                          const FeatureChoice& choice) {
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
  info.timestamp_nanoseconds = static_cast<double>(basic.limits.timestampPeriod);
  std::copy_n(basic.pipelineCacheUUID, VK_UUID_SIZE, info.identity.cache_uuid.begin());
  info.identity.vendor = basic.vendorID;
  info.identity.device = basic.deviceID;
  info.identity.driver_version = basic.driverVersion;
  info.driver = str_cat("Vulkan ", version_text(basic.apiVersion));
  info.quirks.software = basic.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
  info.quirks.subgroup_size_varies = basic.vendorID == kVendorIntel;

  if (basic.apiVersion < VK_API_VERSION_1_1) {
    info.reject_reason = str_cat("has Vulkan ", version_text(basic.apiVersion), ", 1.1 is required");
    return info;
  }
  const ExtensionList extensions(fn, device);
  info.portability_subset = extensions.has("VK_KHR_portability_subset");
  query_features(fn, extensions, choice, &info);

  VkPhysicalDeviceMemoryProperties memory{};
  fn.vkGetPhysicalDeviceMemoryProperties(device, &memory);
  for (uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
    if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0) {
      info.local_memory = std::max<uint64_t>(info.local_memory, memory.memoryHeaps[i].size);
    }
  }
  if (!find_compute_queues(fn, device, !has(choice.disabled, DeviceFeature::kQueues), &info)) {
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

FeatureMask DeviceInfo::features() const {
  const auto bit = [](bool there, DeviceFeature feature) { return there ? static_cast<FeatureMask>(feature) : 0; };
  return bit(ballot, DeviceFeature::kBallot) | bit(size_control, DeviceFeature::kSizeControl) |
         bit(storage16, DeviceFeature::kStorage16) | bit(host_import, DeviceFeature::kHostImport) |
         bit(pipeline_cache, DeviceFeature::kPipelineCache) | bit(dot_product, DeviceFeature::kDotProduct) |
         bit(!decode_queues.empty(), DeviceFeature::kQueues);
}

const char* device_type_name(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return "discrete GPU";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return "integrated GPU";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return "virtual GPU";
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return "CPU";
    default: return "other";
  }
}

Result<std::vector<DeviceInfo>> list_devices(const VulkanInstance& instance, const FeatureChoice& features) {
  NWC_ASSIGN_OR_RETURN(const std::vector<VkPhysicalDevice> handles, instance.physical_devices());
  std::vector<DeviceInfo> devices;
  const auto better = [](const DeviceInfo& a, const DeviceInfo& b) {
    if (a.reject_reason.empty() != b.reject_reason.empty()) return a.reject_reason.empty();
    if (type_rank(a.type) != type_rank(b.type)) return type_rank(a.type) < type_rank(b.type);
    return a.local_memory > b.local_memory;
  };
  for (size_t i = 0; i < handles.size(); ++i) {
    DeviceInfo info = inspect_device(instance, handles[i], static_cast<uint32_t>(i), features);
    const auto place =
        std::find_if(devices.begin(), devices.end(), [&](const DeviceInfo& d) { return better(info, d); });
    devices.insert(place, std::move(info));
  }
  return devices;
}

Result<FeatureChoice> feature_choice(const DeviceChoice& choice) {
  FeatureChoice features;
  NWC_ASSIGN_OR_RETURN(features.disabled, features_named(choice.disabled, "NWC_VULKAN_DISABLE"));
  NWC_ASSIGN_OR_RETURN(features.forced, features_named(choice.forced, "NWC_VULKAN_FORCE"));
  return features;
}

Result<DeviceInfo> choose_device(const VulkanInstance& instance, const DeviceChoice& choice) {
  NWC_ASSIGN_OR_RETURN(const FeatureChoice features, feature_choice(choice));
  NWC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, list_devices(instance, features));
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
