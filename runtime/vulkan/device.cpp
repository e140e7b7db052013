#include "runtime/vulkan/device.h"

namespace nwc {

Result<std::unique_ptr<VulkanDevice>> VulkanDevice::create(std::unique_ptr<VulkanInstance> instance,
                                                           const DeviceInfo& info) {
  std::unique_ptr<VulkanDevice> self(new VulkanDevice());
  self->instance_ = std::move(instance);
  self->info_ = info;
  const InstanceFunctions& fn = self->instance_->fn();

  const float priority = 1.0f;
  VkDeviceQueueCreateInfo queue{};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = info.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;

  std::vector<const char*> extensions;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control{};
  control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  control.subgroupSizeControl = VK_TRUE;
  control.computeFullSubgroups = info.full_subgroups ? VK_TRUE : VK_FALSE;
  VkPhysicalDevice16BitStorageFeatures storage16{};
  storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
  storage16.storageBuffer16BitAccess = VK_TRUE;
  const void* chain = nullptr;
  if (info.size_control) {
    extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    chain = &control;
  }
  if (info.storage16) {
    storage16.pNext = const_cast<void*>(chain);
    chain = &storage16;
  }
  VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR dots{};
  dots.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES_KHR;
  dots.shaderIntegerDotProduct = VK_TRUE;
  if (info.dot_product) {
    extensions.push_back(VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
    dots.pNext = const_cast<void*>(chain);
    chain = &dots;
  }
  if (info.host_import) extensions.push_back(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
  if (info.portability_subset) extensions.push_back("VK_KHR_portability_subset");

  VkDeviceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = chain;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  NWC_TRY(vk_status(fn.vkCreateDevice(info.physical, &create, nullptr, &self->handle_), "vkCreateDevice"));
  NWC_TRY(VulkanLibrary::load_device(self->handle_, fn, &self->fn_));
  self->info_.host_import = info.host_import && self->fn_.vkGetMemoryHostPointerPropertiesEXT != nullptr;
  self->fn_.vkGetDeviceQueue(self->handle_, info.queue_family, 0, &self->queue_);
  fn.vkGetPhysicalDeviceMemoryProperties(info.physical, &self->memory_);
  return self;
}

VulkanDevice::~VulkanDevice() {
  if (abandoned_) {
    instance_->leave_behind();
    return;
  }
  if (handle_ != VK_NULL_HANDLE && fn_.vkDestroyDevice != nullptr) fn_.vkDestroyDevice(handle_, nullptr);
}

}  // namespace nwc
