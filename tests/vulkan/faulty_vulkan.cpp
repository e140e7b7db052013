#include "tests/vulkan/faulty_vulkan.h"

#include <dlfcn.h>
#include <string.h>
#include <vulkan/vulkan.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace {

FaultyVulkan faults;
PFN_vkGetInstanceProcAddr next_instance;
PFN_vkGetDeviceProcAddr next_device;
PFN_vkGetPhysicalDeviceProperties next_properties;
PFN_vkGetPhysicalDeviceProperties2 next_properties2;
PFN_vkGetPhysicalDeviceQueueFamilyProperties next_families;
PFN_vkCreateDevice next_create;
PFN_vkGetDeviceQueue next_queue;
PFN_vkCreateCommandPool next_pool;
PFN_vkCreateBuffer next_buffer;
PFN_vkQueueSubmit next_submit;
PFN_vkCreateShaderModule next_module;
PFN_vkAllocateMemory next_allocate;
PFN_vkBeginCommandBuffer next_begin;
PFN_vkCmdDispatch next_dispatch;
PFN_vkWaitForFences next_wait;
PFN_vkCreatePipelineCache next_cache;
PFN_vkGetPipelineCacheData next_cache_data;
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
  for (auto* next = static_cast<VkBaseOutStructure*>(out->pNext); next != nullptr; next = next->pNext) {
    if (faults.subgroup_size == 0 || next->sType != VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES) continue;
    reinterpret_cast<VkPhysicalDeviceSubgroupProperties*>(next)->subgroupSize = faults.subgroup_size;
  }
}

// Queues that the device does not have: their handles are places here.
char made_up[2];
uint32_t real_families = 0, first_queues = 0;  // of the device that was asked last
bool uses_second_family = false;
VkQueue first_queue = VK_NULL_HANDLE;
std::mutex first_queue_mutex;

VKAPI_ATTR void VKAPI_CALL get_families(VkPhysicalDevice device, uint32_t* count, VkQueueFamilyProperties* out) {
  if (faults.queues <= 1 || out == nullptr) {
    next_families(device, count, out);
    real_families = *count;
    if (faults.queues > 1 && faults.second_family) ++*count;
    return;
  }
  *count = real_families;
  next_families(device, count, out);
  first_queues = out[0].queueCount;
  if (!faults.second_family) {
    out[0].queueCount = std::max(first_queues, faults.queues);
    return;
  }
  out[real_families] = out[0];
  out[0].queueCount = 1;
  out[real_families].queueCount = faults.queues - 1;
  *count = real_families + 1;
}

bool is_made_up(uint32_t family, uint32_t index) {
  return faults.queues > 1 && (family >= real_families || (family == 0 && index >= first_queues));
}

VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                             const VkAllocationCallbacks* allocator, VkDevice* out) {
  VkDeviceCreateInfo own = *info;
  std::vector<VkDeviceQueueCreateInfo> queues(info->pQueueCreateInfos,
                                              info->pQueueCreateInfos + info->queueCreateInfoCount);
  std::erase_if(queues, [](const VkDeviceQueueCreateInfo& q) { return is_made_up(q.queueFamilyIndex, 0); });
  uses_second_family = queues.size() != info->queueCreateInfoCount;
  for (VkDeviceQueueCreateInfo& q : queues) {
    while (is_made_up(q.queueFamilyIndex, q.queueCount - 1)) --q.queueCount;
  }
  own.queueCreateInfoCount = static_cast<uint32_t>(queues.size());
  own.pQueueCreateInfos = queues.data();
  return next_create(physical, &own, allocator, out);
}

VKAPI_ATTR void VKAPI_CALL get_queue(VkDevice device, uint32_t family, uint32_t index, VkQueue* out) {
  if (is_made_up(family, index)) {
    *out = reinterpret_cast<VkQueue>(&made_up[(index + (family == 0 ? 1 : 0)) % 2]);
    return;
  }
  next_queue(device, family, index, out);
  if (index == 0) first_queue = *out;
}

VKAPI_ATTR VkResult VKAPI_CALL create_pool(VkDevice device, const VkCommandPoolCreateInfo* info,
                                           const VkAllocationCallbacks* allocator, VkCommandPool* out) {
  VkCommandPoolCreateInfo own = *info;
  if (is_made_up(own.queueFamilyIndex, 0)) own.queueFamilyIndex = 0;
  return next_pool(device, &own, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL create_buffer(VkDevice device, const VkBufferCreateInfo* info,
                                             const VkAllocationCallbacks* allocator, VkBuffer* out) {
  VkBufferCreateInfo own = *info;
  if (uses_second_family) {
    // Queues of both families use every buffer.
    if (own.sharingMode != VK_SHARING_MODE_CONCURRENT || own.queueFamilyIndexCount != 2) return VK_ERROR_UNKNOWN;
    own.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
    own.queueFamilyIndexCount = 0;
  }
  return next_buffer(device, &own, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo* infos, VkFence fence) {
  const int64_t number = faults.submits++;
  if (faults.submits_until_lost >= 0 && number >= faults.submits_until_lost) return VK_ERROR_DEVICE_LOST;
  if (faults.refuse_every != 0 && number >= faults.refuse_from &&
      (number - faults.refuse_from) % faults.refuse_every == faults.refuse_every - 1) {
    return VK_ERROR_OUT_OF_HOST_MEMORY;
  }
  const std::lock_guard<std::mutex> lock(first_queue_mutex);
  for (uint32_t i = 0; i < 2; ++i) {
    if (queue != reinterpret_cast<VkQueue>(&made_up[i])) continue;
    queue = first_queue;
    ++faults.made_up_submits[i];
    break;
  }
  return next_submit(queue, count, infos, fence);
}

/// Makes SPIR-V compute wrongly, still valid and still within all buffers. False: there is nothing to change.
bool damage(std::vector<uint32_t>* code) {
  constexpr uint32_t kOpConstant = 43, kOpIAdd = 128, kOpFAdd = 129, kOpISub = 130, kOpFSub = 131, kHeaderWords = 5;
  const auto replace = [&](auto&& change) {
    bool changed = false;
    for (size_t at = kHeaderWords; at < code->size() && (*code)[at] >> 16 != 0; at += (*code)[at] >> 16) {
      changed = change(&(*code)[at]) || changed;
    }
    return changed;
  };
  const auto operation = [&](uint32_t from, uint32_t to) {
    return replace([&](uint32_t* op) {
      if (*op != (5u << 16 | from)) return false;
      *op = 5u << 16 | to;
      return true;
    });
  };
  // rANS: the mask of 16-bit words becomes 0xfffd, so that bit 1 of every word read is lost. Elsewhere sums of floats
  // become differences, and in the conversions, which have none, those of integers.
  return replace([](uint32_t* op) {
           if (*op != (4u << 16 | kOpConstant) || op[3] != 0xffffu) return false;
           op[3] = 0xfffdu;
           return true;
         }) ||
         operation(kOpFAdd, kOpFSub) || operation(kOpIAdd, kOpISub);
}

bool has_dots(const std::vector<uint32_t>& code) {
  constexpr uint32_t kOpSDot = 4450;
  for (size_t at = 5; at < code.size() && code[at] >> 16 != 0; at += code[at] >> 16) {
    if ((code[at] & 0xffffu) == kOpSDot) return true;
  }
  return false;
}

VKAPI_ATTR VkResult VKAPI_CALL create_module(VkDevice device, const VkShaderModuleCreateInfo* info,
                                             const VkAllocationCallbacks* allocator, VkShaderModule* out) {
  const uint32_t number = faults.modules++;
  for (const FaultyVulkan::Swap& swap : faults.swaps) {
    if (swap.from == nullptr || info->codeSize != swap.from_bytes) continue;
    if (memcmp(info->pCode, swap.from, swap.from_bytes) != 0) continue;
    ++faults.swapped;
    VkShaderModuleCreateInfo other = *info;
    other.pCode = swap.to;
    other.codeSize = swap.to_bytes;
    return next_module(device, &other, allocator, out);
  }
  std::vector<uint32_t> code(info->pCode, info->pCode + info->codeSize / 4);
  const bool meant = number < 32 && (faults.damaged_modules >> number & 1u) != 0;
  if (!meant && !(faults.damages_dots && has_dots(code))) return next_module(device, info, allocator, out);
  if (damage(&code)) ++faults.damaged;
  VkShaderModuleCreateInfo damaged = *info;
  damaged.pCode = code.data();
  return next_module(device, &damaged, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo* info,
                                        const VkAllocationCallbacks* allocator, VkDeviceMemory* out) {
  if (faults.allocations_fail) return VK_ERROR_OUT_OF_DEVICE_MEMORY;
  for (auto* next = static_cast<const VkBaseInStructure*>(info->pNext); next != nullptr; next = next->pNext) {
    if (next->sType != VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT) continue;
    if (faults.imports_fail) return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    ++faults.imports;
  }
  return next_allocate(device, info, allocator, out);
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

VKAPI_ATTR VkResult VKAPI_CALL wait(VkDevice device, uint32_t count, const VkFence* fences, VkBool32 all,
                                    uint64_t timeout) {
  const int64_t number = faults.waits++;
  if (faults.waits_until_hang >= 0 && number >= faults.waits_until_hang) {
    // The device does finish: at the end of the process software Vulkan must not be compiling any more.
    reinterpret_cast<PFN_vkDeviceWaitIdle>(next_device(device, "vkDeviceWaitIdle"))(device);
    return VK_TIMEOUT;
  }
  return next_wait(device, count, fences, all, timeout);
}

VKAPI_ATTR VkResult VKAPI_CALL create_cache(VkDevice device, const VkPipelineCacheCreateInfo* info,
                                            const VkAllocationCallbacks* allocator, VkPipelineCache* out) {
  ++faults.caches;
  faults.cache_data_given = info->initialDataSize;
  if (faults.cache_data_fails && info->initialDataSize != 0) return VK_ERROR_OUT_OF_HOST_MEMORY;
  VkPipelineCacheCreateInfo own = *info;
  if (faults.cache_bytes != 0) own.initialDataSize = 0;  // the driver does not know what was added
  return next_cache(device, &own, allocator, out);
}

VKAPI_ATTR VkResult VKAPI_CALL cache_data(VkDevice device, VkPipelineCache cache, size_t* size, void* data) {
  if (faults.cache_bytes == 0) return next_cache_data(device, cache, size, data);
  constexpr size_t kHeader = 32;
  static uint8_t fill = 0;
  const size_t need = kHeader + faults.cache_bytes;
  if (data != nullptr) {
    if (*size < need) return VK_INCOMPLETE;
    // The header is the driver's own. Some drivers give nothing to a buffer that does not hold all that they keep.
    size_t size_of_all = 0;
    next_cache_data(device, cache, &size_of_all, nullptr);
    std::vector<uint8_t> all(std::max(size_of_all, kHeader));
    size_of_all = all.size();
    next_cache_data(device, cache, &size_of_all, all.data());
    memcpy(data, all.data(), kHeader);
    memset(static_cast<uint8_t*>(data) + kHeader, ++fill, faults.cache_bytes);
  }
  *size = need;
  return VK_SUCCESS;
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
  if (strcmp(name, "vkGetDeviceQueue") == 0) return intercept(found, &get_queue, &next_queue);
  if (strcmp(name, "vkCreateCommandPool") == 0) return intercept(found, &create_pool, &next_pool);
  if (strcmp(name, "vkCreateBuffer") == 0) return intercept(found, &create_buffer, &next_buffer);
  if (strcmp(name, "vkQueueSubmit") == 0) return intercept(found, &submit, &next_submit);
  if (strcmp(name, "vkCreateShaderModule") == 0) return intercept(found, &create_module, &next_module);
  if (strcmp(name, "vkAllocateMemory") == 0) return intercept(found, &allocate, &next_allocate);
  if (strcmp(name, "vkBeginCommandBuffer") == 0) return intercept(found, &begin, &next_begin);
  if (strcmp(name, "vkCmdDispatch") == 0) return intercept(found, &dispatch, &next_dispatch);
  if (strcmp(name, "vkWaitForFences") == 0) return intercept(found, &wait, &next_wait);
  if (strcmp(name, "vkCreatePipelineCache") == 0) return intercept(found, &create_cache, &next_cache);
  if (strcmp(name, "vkGetPipelineCacheData") == 0) return intercept(found, &cache_data, &next_cache_data);
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
  if (strcmp(name, "vkGetPhysicalDeviceQueueFamilyProperties") == 0)
    return intercept(found, &get_families, &next_families);
  if (strcmp(name, "vkCreateDevice") == 0) return intercept(found, &create_device, &next_create);
  if (strcmp(name, "vkGetPhysicalDeviceProperties") == 0) return intercept(found, &get_properties, &next_properties);
  if (strcmp(name, "vkGetPhysicalDeviceProperties2") == 0) return intercept(found, &get_properties2, &next_properties2);
  return found;
}

}  // extern "C"
