#include "tests/vulkan/faulty_vulkan.h"

#include <dlfcn.h>
#include <string.h>
#include <vulkan/vulkan.h>

#include <vector>

namespace {

FaultyVulkan faults;
PFN_vkGetInstanceProcAddr next_instance;
PFN_vkGetDeviceProcAddr next_device;
PFN_vkGetPhysicalDeviceProperties next_properties;
PFN_vkGetPhysicalDeviceProperties2 next_properties2;
PFN_vkQueueSubmit next_submit;
PFN_vkCreateShaderModule next_module;
PFN_vkAllocateMemory next_allocate;
PFN_vkBeginCommandBuffer next_begin;
PFN_vkCmdDispatch next_dispatch;
bool skip_next_dispatch = false;

void disguise(VkPhysicalDeviceProperties* properties) {
  if (faults.hardware && properties->deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU) {
    properties->deviceType = VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU;
  }
}

VKAPI_ATTR void VKAPI_CALL get_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties* out) {
  next_properties(device, out);
  disguise(out);
}

VKAPI_ATTR void VKAPI_CALL get_properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2* out) {
  next_properties2(device, out);
  disguise(&out->properties);
}

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo* infos, VkFence fence) {
  const int64_t number = faults.submits++;
  if (faults.submits_until_lost >= 0 && number >= faults.submits_until_lost) return VK_ERROR_DEVICE_LOST;
  return next_submit(queue, count, infos, fence);
}

VKAPI_ATTR VkResult VKAPI_CALL create_module(VkDevice device, const VkShaderModuleCreateInfo* info,
                                             const VkAllocationCallbacks* allocator, VkShaderModule* out) {
  const uint32_t number = faults.modules++;
  if (number >= 32 || (faults.damaged_modules >> number & 1u) == 0) return next_module(device, info, allocator, out);
  // The mask of 16-bit words becomes 0xfffd: bit 1 of every word read is lost. Still valid, still within all buffers.
  std::vector<uint32_t> code(info->pCode, info->pCode + info->codeSize / 4);
  constexpr uint32_t kOpConstant = 43, kHeaderWords = 5;
  for (size_t at = kHeaderWords; at < code.size() && code[at] >> 16 != 0; at += code[at] >> 16) {
    if (code[at] == (4u << 16 | kOpConstant) && code[at + 3] == 0xffffu) code[at + 3] = 0xfffdu;
  }
  VkShaderModuleCreateInfo damaged = *info;
  damaged.pCode = code.data();
  return next_module(device, &damaged, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo* info,
                                        const VkAllocationCallbacks* allocator, VkDeviceMemory* out) {
  return faults.allocations_fail ? VK_ERROR_OUT_OF_DEVICE_MEMORY : next_allocate(device, info, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL begin(VkCommandBuffer commands, const VkCommandBufferBeginInfo* info) {
  skip_next_dispatch = faults.batches++ == faults.batches_until_skip;
  return next_begin(commands, info);
}

VKAPI_ATTR void VKAPI_CALL dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {
  if (!skip_next_dispatch) return next_dispatch(commands, x, y, z);
  skip_next_dispatch = false;
  ++faults.skipped;
}

/// Keeps what the system's loader answers in *next, and answers `own`.
template <typename F>
PFN_vkVoidFunction intercept(PFN_vkVoidFunction found, F own, F* next) {
  if (found == nullptr) return nullptr;
  *next = reinterpret_cast<F>(found);
  return reinterpret_cast<PFN_vkVoidFunction>(own);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice device, const char* name) {
  const PFN_vkVoidFunction found = next_device(device, name);
  if (strcmp(name, "vkQueueSubmit") == 0) return intercept(found, &submit, &next_submit);
  if (strcmp(name, "vkCreateShaderModule") == 0) return intercept(found, &create_module, &next_module);
  if (strcmp(name, "vkAllocateMemory") == 0) return intercept(found, &allocate, &next_allocate);
  if (strcmp(name, "vkBeginCommandBuffer") == 0) return intercept(found, &begin, &next_begin);
  if (strcmp(name, "vkCmdDispatch") == 0) return intercept(found, &dispatch, &next_dispatch);
  return found;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) FaultyVulkan* faulty_vulkan() { return &faults; }

__attribute__((visibility("default"))) VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL
vkGetInstanceProcAddr(VkInstance instance, const char* name) {
  if (next_instance == nullptr) {
    void* system = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (system != nullptr) {
      next_instance = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(system, "vkGetInstanceProcAddr"));
    }
    if (next_instance == nullptr) return nullptr;  // as a loader without drivers: no device
  }
  const PFN_vkVoidFunction found = next_instance(instance, name);
  if (strcmp(name, "vkGetDeviceProcAddr") == 0) return intercept(found, &get_device_proc, &next_device);
  if (strcmp(name, "vkGetPhysicalDeviceProperties") == 0) return intercept(found, &get_properties, &next_properties);
  if (strcmp(name, "vkGetPhysicalDeviceProperties2") == 0) return intercept(found, &get_properties2, &next_properties2);
  return found;
}

}  // extern "C"
