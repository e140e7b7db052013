#include <optional>

#include "bench/device_report.h"
#include "runtime/decoder/vulkan/vulkan_decoder.h"

namespace nwc::bench {
namespace {

/// "a | b" of the names whose bits are set.
std::string flag_names(uint32_t flags, std::initializer_list<std::pair<uint32_t, const char*>> names) {
  std::string text;
  for (const auto& [bit, name] : names) {
    if ((flags & bit) != 0) text += (text.empty() ? "" : " | ") + std::string(name);
  }
  return text;
}

nlohmann::json describe_memory(const InstanceFunctions& fn, VkPhysicalDevice device) {
  VkPhysicalDeviceMemoryProperties memory{};
  fn.vkGetPhysicalDeviceMemoryProperties(device, &memory);
  nlohmann::json heaps = nlohmann::json::array(), types = nlohmann::json::array();
  for (uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
    heaps.push_back({{"bytes", memory.memoryHeaps[i].size},
                     {"flags", flag_names(memory.memoryHeaps[i].flags, {{VK_MEMORY_HEAP_DEVICE_LOCAL_BIT, "local"}})}});
  }
  for (uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    types.push_back(
        {{"heap", memory.memoryTypes[i].heapIndex},
         {"flags", flag_names(memory.memoryTypes[i].propertyFlags, {{VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, "local"},
                                                                    {VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT, "visible"},
                                                                    {VK_MEMORY_PROPERTY_HOST_COHERENT_BIT, "coherent"},
                                                                    {VK_MEMORY_PROPERTY_HOST_CACHED_BIT, "cached"}})}});
  }
  nlohmann::json chosen;
  for (const auto& [name, kind] : {std::pair("device", MemoryKind::kDevice), std::pair("upload", MemoryKind::kUpload),
                                   std::pair("readback", MemoryKind::kReadback)}) {
    chosen[name] = candidate_types(memory, UINT32_MAX, kind);
  }
  return {{"heaps", heaps}, {"types", types}, {"types_by_preference", chosen}};
}

nlohmann::json describe_queues(const InstanceFunctions& fn, VkPhysicalDevice device) {
  uint32_t count = 0;
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  fn.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  nlohmann::json out = nlohmann::json::array();
  for (const VkQueueFamilyProperties& f : families) {
    out.push_back({{"queues", f.queueCount},
                   {"timestamp_bits", f.timestampValidBits},
                   {"flags", flag_names(f.queueFlags, {{VK_QUEUE_GRAPHICS_BIT, "graphics"},
                                                       {VK_QUEUE_COMPUTE_BIT, "compute"},
                                                       {VK_QUEUE_TRANSFER_BIT, "transfer"}})}});
  }
  return out;
}

nlohmann::json describe_device(const InstanceFunctions& fn, const DeviceInfo& info) {
  VkPhysicalDeviceProperties properties{};
  fn.vkGetPhysicalDeviceProperties(info.physical, &properties);
  const VkPhysicalDeviceLimits& limits = properties.limits;
  return {{"name", info.name},
          {"type", device_type_name(info.type)},
          {"driver", info.driver},
          {"driver_version", info.identity.driver_version},
          {"vendor", info.identity.vendor},
          {"usable", info.reject_reason.empty()},
          {"why_not", info.reject_reason},
          {"features", feature_names(info.features())},
          {"full_subgroups", info.full_subgroups},
          {"subgroup_size", info.subgroup_size},
          {"max_subgroups", info.max_subgroups},
          {"queue_family", info.queue.family},
          {"decode_queues", info.decode_queues.size()},
          {"timestamp_bits", info.queue.timestamp_bits},
          {"timestamp_nanoseconds", info.timestamp_nanoseconds},
          {"local_memory", info.local_memory},
          {"max_allocation", info.max_allocation},
          {"max_storage_range", info.max_storage_range},
          {"storage_offset_alignment", info.offset_alignment},
          {"import_alignment", info.import_alignment},
          {"max_shared_memory", info.max_shared_memory},
          {"max_invocations", limits.maxComputeWorkGroupInvocations},
          {"max_groups", limits.maxComputeWorkGroupCount},
          {"max_allocations", limits.maxMemoryAllocationCount},
          {"non_coherent_atom", limits.nonCoherentAtomSize},
          {"memory", describe_memory(fn, info.physical)},
          {"queue_families", describe_queues(fn, info.physical)}};
}

}  // namespace

namespace {

/// Median seconds of an empty submission, from recording it until it was waited for.
double submission_seconds(VulkanDecoder& decoder) {
  constexpr int kSubmissions = 200;
  const auto batch = CommandBatch::create(decoder.device(), decoder.pipelines());
  if (!batch.ok()) return 0;
  std::vector<double> times;
  for (int i = 0; i < kSubmissions; ++i) {
    Status status;
    times.push_back(seconds_of(false, [&] {
      status = (*batch)->begin();
      (*batch)->barrier();
      if (status.ok()) status = (*batch)->submit_and_wait();
    }));
    if (!status.ok()) return 0;
  }
  return median(std::move(times));
}

}  // namespace

nlohmann::json describe_devices() {
  nlohmann::json out = {{"devices", nlohmann::json::array()}};
  const auto instance = VulkanInstance::create(false, {});
  if (!instance.ok()) {
    out["why"] = instance.status().message();
    return out;
  }
  const auto devices = list_devices(**instance);
  if (!devices.ok()) {
    out["why"] = devices.status().message();
    return out;
  }
  for (const DeviceInfo& info : *devices) out["devices"].push_back(describe_device((*instance)->fn(), info));
  return out;
}

nlohmann::json describe_decoder(const SyntheticModel& model, const std::string& device, const std::string& disabled) {
  VulkanOptions options;
  options.device_name = device;
  options.disabled_features = disabled;
  std::vector<std::string> lines;
  const Logger log{[](void* user, LogLevel, const char* message) {
                     static_cast<std::vector<std::string>*>(user)->push_back(message);
                   },
                   &lines};
  const auto runner = make_thread_pool(1);
  std::optional<Result<std::unique_ptr<VulkanDecoder>>> made;
  const double seconds = seconds_of(false, [&] { made = VulkanDecoder::create(*model.file, *runner, options, log); });
  const double submission = made->ok() ? submission_seconds(***made) : 0;
  return {{"preset", model.record.preset},
          {"disabled", disabled},
          {"ok", made->ok()},
          {"message", made->status().message()},
          {"seconds", seconds},
          {"submission_seconds", submission},
          {"log", lines}};
}

}  // namespace nwc::bench
