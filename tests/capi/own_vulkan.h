// A program's own Vulkan device with one queue, and a buffer that the host reads: what nwc_vulkan_objects are made of.
#pragma once

#include <nwc/nwc.h>
#include <vulkan/vulkan.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace nwc::test {

class OwnVulkan {
 public:
  /// with_features: enables everything optional that nwc uses and the device has. Check ok() before anything else.
  explicit OwnVulkan(bool with_features) {
    VkApplicationInfo application{};
    application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    application.apiVersion = VK_API_VERSION_1_1;
    VkInstanceCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    create.pApplicationInfo = &application;
    uint32_t count = 1;
    if (vkCreateInstance(&create, nullptr, &instance_) != VK_SUCCESS ||
        vkEnumeratePhysicalDevices(instance_, &count, &physical_) < VK_SUCCESS || count == 0)
      return;
    vkGetPhysicalDeviceQueueFamilyProperties(physical_, &count, nullptr);
    std::vector<VkQueueFamilyProperties> families(count);
    vkGetPhysicalDeviceQueueFamilyProperties(physical_, &count, families.data());
    while (family_ < count && (families[family_].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) ++family_;
    if (family_ == count) return;

    const float priority = 1;
    VkDeviceQueueCreateInfo queue{};
    queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queue.queueFamilyIndex = family_;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    control_.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
    storage_.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
    storage_.pNext = &control_;
    features_.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    features_.pNext = &storage_;
    created_with_.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    created_with_.queueCreateInfoCount = 1;
    created_with_.pQueueCreateInfos = &queue;
    if (with_features) {
      vkGetPhysicalDeviceFeatures2(physical_, &features_);
      features_.features = {};
      created_with_.pNext = &features_;
      created_with_.enabledExtensionCount = 2;
      created_with_.ppEnabledExtensionNames = extensions_;
    }
    if (vkCreateDevice(physical_, &created_with_, nullptr, &device_) != VK_SUCCESS) return;
    vkGetDeviceQueue(device_, family_, 0, &queue_);
    created_with_.queueCreateInfoCount = 0;  // `queue` is gone after this
    created_with_.pQueueCreateInfos = nullptr;
  }
  ~OwnVulkan() {
    if (device_ != VK_NULL_HANDLE) {
      vkDeviceWaitIdle(device_);
      vkDestroyBuffer(device_, buffer_, nullptr);
      vkFreeMemory(device_, memory_, nullptr);
      vkDestroyDevice(device_, nullptr);  // the validation layer finds what somebody else has left there
    }
    if (instance_ != VK_NULL_HANDLE) vkDestroyInstance(instance_, nullptr);
  }
  OwnVulkan(const OwnVulkan&) = delete;
  OwnVulkan& operator=(const OwnVulkan&) = delete;

  bool ok() const { return queue_ != VK_NULL_HANDLE; }

  nwc_vulkan_objects objects() {
    nwc_vulkan_objects o;
    nwc_vulkan_objects_init(&o);
    o.instance = instance_;
    o.physical_device = physical_;
    o.device = device_;
    o.queue = queue_;
    o.queue_family = family_;
    o.created_with = &created_with_;
    o.get_instance_proc_addr = vkGetInstanceProcAddr;
    o.lock_queue = [](void* self) {
      static_cast<OwnVulkan*>(self)->mutex_.lock();
      ++static_cast<OwnVulkan*>(self)->locks_;
    };
    o.unlock_queue = [](void* self) { static_cast<OwnVulkan*>(self)->mutex_.unlock(); };
    o.user = this;
    return o;
  }
  uint64_t locks() const { return locks_; }

  /// A buffer of so many bytes, each of them `fill`, in memory that the host sees; null: failed. The one before goes.
  uint8_t* make_buffer(uint64_t size, uint8_t fill) {
    vkDestroyBuffer(device_, buffer_, nullptr);
    vkFreeMemory(device_, memory_, nullptr);
    VkBufferCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    info.size = size;
    info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    if (vkCreateBuffer(device_, &info, nullptr, &buffer_) != VK_SUCCESS) return nullptr;
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(device_, buffer_, &needs);
    VkPhysicalDeviceMemoryProperties types;
    vkGetPhysicalDeviceMemoryProperties(physical_, &types);
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.allocationSize = needs.size;
    while (allocate.memoryTypeIndex < types.memoryTypeCount &&
           ((needs.memoryTypeBits >> allocate.memoryTypeIndex & 1u) == 0 ||
            (types.memoryTypes[allocate.memoryTypeIndex].propertyFlags & wanted) != wanted))
      ++allocate.memoryTypeIndex;
    void* mapped = nullptr;
    if (allocate.memoryTypeIndex == types.memoryTypeCount ||
        vkAllocateMemory(device_, &allocate, nullptr, &memory_) != VK_SUCCESS ||
        vkBindBufferMemory(device_, buffer_, memory_, 0) != VK_SUCCESS ||
        vkMapMemory(device_, memory_, 0, VK_WHOLE_SIZE, 0, &mapped) != VK_SUCCESS)
      return nullptr;
    std::memset(mapped, fill, static_cast<size_t>(size));
    return static_cast<uint8_t*>(mapped);
  }
  uint64_t buffer() const { return reinterpret_cast<uint64_t>(buffer_); }

 private:
  VkInstance instance_ = VK_NULL_HANDLE;
  VkPhysicalDevice physical_ = VK_NULL_HANDLE;
  VkDevice device_ = VK_NULL_HANDLE;
  VkQueue queue_ = VK_NULL_HANDLE;
  uint32_t family_ = 0;
  VkDeviceCreateInfo created_with_{};
  VkPhysicalDeviceFeatures2 features_{};
  VkPhysicalDevice16BitStorageFeatures storage_{};
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control_{};
  const char* const extensions_[2] = {VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME,
                                      VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME};
  std::mutex mutex_;
  uint64_t locks_ = 0;
  VkBuffer buffer_ = VK_NULL_HANDLE;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
};

}  // namespace nwc::test
