#include "runtime/vulkan/device.h"

#include <algorithm>
#include <span>

namespace nwc {

Result<std::unique_ptr<VulkanDevice>> VulkanDevice::create(std::unique_ptr<VulkanInstance> instance,
                                                           const DeviceInfo& info) {
  std::unique_ptr<VulkanDevice> self(new VulkanDevice());
  self->instance_ = std::move(instance);
  self->info_ = info;
  const InstanceFunctions& fn = self->instance_->fn();

  self->queues_[0].place = info.queue;
  for (size_t i = 0; i < info.decode_queues.size(); ++i) self->queues_[1 + i].place = info.decode_queues[i];
  const std::span<DeviceQueue> queues(self->queues_.data(), 1 + info.decode_queues.size());
  // Those of a family are numbered from 0 on.
  const float priorities[1 + kDecodeQueues] = {1.0f, 1.0f, 1.0f};
  std::vector<VkDeviceQueueCreateInfo> wanted;
  for (const DeviceQueue& queue : queues) {
    const auto same = [&](const VkDeviceQueueCreateInfo& w) { return w.queueFamilyIndex == queue.place.family; };
    auto found = std::find_if(wanted.begin(), wanted.end(), same);
    if (found == wanted.end()) {
      VkDeviceQueueCreateInfo family{};
      family.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
      family.queueFamilyIndex = queue.place.family;
      family.pQueuePriorities = priorities;
      found = wanted.insert(wanted.end(), family);
      self->families_.push_back(queue.place.family);
    }
    ++found->queueCount;
  }

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
  create.queueCreateInfoCount = static_cast<uint32_t>(wanted.size());
  create.pQueueCreateInfos = wanted.data();
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  NWC_TRY(vk_status(fn.vkCreateDevice(info.physical, &create, nullptr, &self->handle_), "vkCreateDevice"));
  NWC_TRY(self->look_up());
  for (DeviceQueue& queue : queues)
    self->fn_.vkGetDeviceQueue(self->handle_, queue.place.family, queue.place.index, &queue.handle);
  return self;
}

Result<std::unique_ptr<VulkanDevice>> VulkanDevice::borrow(std::unique_ptr<VulkanInstance> instance,
                                                           const DeviceInfo& info, const BorrowedDevice& borrowed) {
  std::unique_ptr<VulkanDevice> self(new VulkanDevice());
  self->instance_ = std::move(instance);
  self->info_ = info;
  self->handle_ = borrowed.device;
  DeviceQueue& queue = self->queues_[0];
  queue.place = info.queue;
  queue.handle = borrowed.queue;
  queue.owner = borrowed;
  queue.owner.created_with = nullptr;  // it may be gone soon
  self->families_.push_back(info.queue.family);
  NWC_TRY(self->look_up());
  return self;
}

Status VulkanDevice::look_up() {
  NWC_TRY(VulkanLibrary::load_device(handle_, instance_->fn(), &fn_));
  info_.host_import = info_.host_import && fn_.vkGetMemoryHostPointerPropertiesEXT != nullptr;
  instance_->fn().vkGetPhysicalDeviceMemoryProperties(info_.physical, &memory_);
  return {};
}

VulkanDevice::~VulkanDevice() {
  if (abandoned_) {
    instance_->leave_behind();
    return;
  }
  if (handle_ != VK_NULL_HANDLE && !borrowed() && fn_.vkDestroyDevice != nullptr) fn_.vkDestroyDevice(handle_, nullptr);
}

}  // namespace nwc
