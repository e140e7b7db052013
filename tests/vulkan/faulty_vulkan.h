// A Vulkan loader with faults: everything goes to the system's loader, but for what is to fail. A test names the
// library in NWC_VULKAN_LIBRARY, and links it to say what fails and when.
#pragma once

#include <stdint.h>

struct FaultyVulkan {
  bool hardware = false;  ///< software renderers say that they are a virtual GPU
  /// The device says that it has so many queues at least, all in the first family, or the first one and the others in a
  /// second family. Those that it does not have are one of it.
  uint32_t queues = 1;
  bool second_family = false;
  int64_t submits_until_lost = -1;  ///< so many calls of vkQueueSubmit succeed, then VK_ERROR_DEVICE_LOST; -1: all
  /// Of the calls of vkQueueSubmit from number refuse_from on, every refuse_every-th gives VK_ERROR_OUT_OF_HOST_MEMORY;
  /// 0: none. The device stays.
  uint32_t refuse_from = 0, refuse_every = 0;
  uint32_t damaged_modules = 0;  ///< bit i: the shader module created as number i computes wrongly
  /// Shaders that are given to the driver in place of others, by their words; and not 0: the size that subgroups are
  /// said to have.
  struct Swap {
    const uint32_t *from = nullptr, *to = nullptr;
    uint32_t from_bytes = 0, to_bytes = 0;
  } swaps[3];
  uint32_t subgroup_size = 0;
  bool damages_dots = false;  ///< and so do all that have dot products of bytes
  /// So many command buffers are recorded as they should be; the next one lacks its first dispatch. -1: all are.
  int64_t batches_until_skip = -1;
  bool allocations_fail = false;  ///< vkAllocateMemory gives VK_ERROR_OUT_OF_DEVICE_MEMORY
  bool imports_fail = false;      ///< and VK_ERROR_INVALID_EXTERNAL_HANDLE for memory of the host
  int64_t waits_until_hang = -1;  ///< so many calls of vkWaitForFences succeed, then VK_TIMEOUT; -1: all
  /// Not 0: pipeline caches hold the driver's header and so many bytes, a fresh one each time they are asked for.
  uint32_t cache_bytes = 0;
  bool cache_data_fails = false;  ///< no pipeline cache is made of data

  // Counted since reset().
  uint32_t made_up_submits[2] = {};  ///< to queues that the device does not have
  uint32_t swapped = 0;
  uint32_t submits = 0, modules = 0, damaged = 0, batches = 0, skipped = 0, waits = 0, caches = 0, imports = 0;
  uint64_t cache_data_given = 0;  ///< bytes, to the last pipeline cache
};

/// The library's one instance.
extern "C" FaultyVulkan* faulty_vulkan();
inline void reset_faulty_vulkan() { *faulty_vulkan() = FaultyVulkan(); }
