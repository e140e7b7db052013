// Vulkan devices: their requirements, their optional features, their known faults as named flags, and the choice of
// one.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/vulkan/device_features.h"
#include "runtime/vulkan/instance.h"

namespace nwc {

/// Workgroups that every device takes in one dimension.
inline constexpr uint32_t kMaxGroups = 65535;
/// Bindings may begin at multiples of this on every device. A device may ask for less, but never for more.
inline constexpr uint32_t kBindingAlignment = 256;

/// Known faults. Each names what goes wrong, so that the code that works around it can be found.
struct DeviceQuirks {
  /// The compiler picks a subgroup size per shader and reports only the usual one (Intel without size control).
  bool subgroup_size_varies = false;
  /// A software device: work runs on the CPU's cores, so dispatches are slow and one subgroup per workgroup is best.
  bool software = false;
};

/// Device, driver and the driver's version. Compiled pipelines are valid for exactly these.
struct DriverIdentity {
  std::array<uint8_t, VK_UUID_SIZE> cache_uuid{}, device_uuid{}, driver_uuid{};
  uint32_t vendor = 0, device = 0, driver_version = 0;
};

/// A queue of a device, or the place of one.
struct QueuePlace {
  uint32_t family = 0;
  uint32_t index = 0;           ///< in the family
  uint32_t timestamp_bits = 0;  ///< that count in the queue's timestamps; 0: it has none
};
/// Decoding takes this many at most: one for each of the windows that are in flight at a time.
inline constexpr uint32_t kDecodeQueues = 2;

/// The properties of a device that the decoder has to know.
struct DeviceInfo {
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  uint32_t index = 0;  ///< in the order of the driver's list
  std::string name;    ///< "llvmpipe (LLVM 15.0.6, 256 bits)"
  std::string driver;
  VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  uint32_t api_version = 0;
  QueuePlace queue;
  std::vector<QueuePlace> decode_queues;  ///< further ones; none: `queue` does everything
  uint64_t local_memory = 0;              ///< bytes of the largest device-local heap
  uint64_t max_storage_range = 0;
  uint32_t offset_alignment = kBindingAlignment;  ///< of storage-buffer bindings; on no device more
  uint64_t max_allocation = 0;
  uint32_t max_shared_memory = 0;
  // Optional features, where the device has them and nobody switched them off (DeviceFeature has their names).
  bool ballot = false;
  bool size_control = false;
  bool full_subgroups = false;  ///< VK_EXT_subgroup_size_control's computeFullSubgroups
  bool storage16 = false;       ///< storageBuffer16BitAccess
  bool host_import = false;     ///< VK_EXT_external_memory_host
  bool pipeline_cache = false;
  bool dot_product = false;          ///< VK_KHR_shader_integer_dot_product, of words of four bytes
  uint64_t import_alignment = 0;     ///< of addresses and sizes of imported memory
  double timestamp_nanoseconds = 0;  ///< of one tick
  bool portability_subset = false;
  uint32_t subgroup_size = 0;  ///< the size that the ballot kernel is built for
  uint32_t max_subgroups = 1;  ///< in a workgroup, with size control
  DriverIdentity identity;
  DeviceQuirks quirks;
  std::string reject_reason;  ///< empty: usable

  FeatureMask features() const;
};

/// Features that count as absent, and those that are used wherever a device has them, whether or not it is said to gain
/// by them: kDotProduct.
struct FeatureChoice {
  FeatureMask disabled = 0, forced = 0;
};

const char* device_type_name(VkPhysicalDeviceType type);

/// Every device, usable or not, best first: usable ones before others, then by type (discrete, integrated, virtual,
/// CPU) and memory.
Result<std::vector<DeviceInfo>> list_devices(const VulkanInstance& instance, const FeatureChoice& features = {});

/// What the driver says of a device, whether it is usable (reject_reason) or not. index: in the driver's list.
DeviceInfo inspect_device(const VulkanInstance& instance, VkPhysicalDevice device, uint32_t index,
                          const FeatureChoice& choice);
/// Likewise of a borrowed device, with its queue, and without what it was not made for. Errors: kInvalidArgument (the
/// handles do not belong together), kNoDevice (it is not usable).
Result<DeviceInfo> inspect_borrowed(const VulkanInstance& instance, const BorrowedDevice& borrowed,
                                    FeatureChoice choice);

struct DeviceChoice {
  int index = -1;        ///< in the driver's order; -1: any
  std::string name;      ///< substring of the name; empty: any. Environment variable NWC_VULKAN_DEVICE replaces it (a
                         ///< number: the index)
  bool software = true;  ///< software renderers may be chosen, too
  // Names of features for parse_features, FeatureChoice's; those in NWC_VULKAN_DISABLE and NWC_VULKAN_FORCE come on
  // top.
  std::string disabled, forced;
};
/// Errors: kInvalidArgument if no feature has such a name.
Result<FeatureChoice> feature_choice(const DeviceChoice& choice);
/// Errors: kNoDevice, with every device's reject reason; those of feature_choice.
Result<DeviceInfo> choose_device(const VulkanInstance& instance, const DeviceChoice& choice);

/// A queue that commands can be submitted to. Queues do not wait for each other: who hands over what one has written to
/// another waits for the first on the host before he submits to the second.
struct DeviceQueue {
  QueuePlace place;
  VkQueue handle = VK_NULL_HANDLE;
  // Held by a thread that uses the queue: nwc's own mutex and, of a borrowed queue, its owner's lock.
  void lock() {
    mutex.lock();
    if (owner.lock_queue != nullptr) owner.lock_queue(owner.user);
  }
  void unlock() {
    if (owner.unlock_queue != nullptr) owner.unlock_queue(owner.user);
    mutex.unlock();
  }
  std::mutex mutex;
  BorrowedDevice owner;
};

/// A logical device with a compute queue, and more of them for decoding where there are any.
class VulkanDevice {
 public:
  static Result<std::unique_ptr<VulkanDevice>> create(std::unique_ptr<VulkanInstance> instance, const DeviceInfo& info);
  /// One that stays with its owner. info: that of inspect_borrowed. Errors: kNoDevice.
  static Result<std::unique_ptr<VulkanDevice>> borrow(std::unique_ptr<VulkanInstance> instance, const DeviceInfo& info,
                                                      const BorrowedDevice& borrowed);
  ~VulkanDevice();
  VulkanDevice(const VulkanDevice&) = delete;
  VulkanDevice& operator=(const VulkanDevice&) = delete;

  const DeviceInfo& info() const { return info_; }
  const DeviceFunctions& fn() const { return fn_; }
  VkDevice handle() const { return handle_; }
  DeviceQueue& queue() { return queues_[0]; }
  /// For windows of number i, i + 1, ... in turn: queue() where there is no other.
  DeviceQueue& decode_queue(size_t i) {
    const size_t others = info_.decode_queues.size();
    return queues_[others == 0 ? 0 : 1 + i % others];
  }
  /// Families of all queues, which share every buffer.
  const std::vector<uint32_t>& families() const { return families_; }
  bool borrowed() const { return static_cast<bool>(queues_[0].owner); }
  const VulkanInstance& instance() const { return *instance_; }
  const VkPhysicalDeviceMemoryProperties& memory() const { return memory_; }

  /// A lost device takes no more work; its objects are destroyed as usual (Vulkan 1.1, section 4.2.3).
  void set_lost() { lost_ = true; }
  bool lost() const { return lost_; }
  /// After a timeout nothing may be destroyed that the device could still use: everything is left to the end of the
  /// process. The device counts as lost.
  void abandon() {
    lost_ = true;
    abandoned_ = true;
  }
  bool abandoned() const { return abandoned_; }

  /// Test hook: allocations of more bytes than this fail as if the device had no memory.
  void set_allocation_limit(uint64_t bytes) { allocation_limit_ = bytes; }
  uint64_t allocation_limit() const { return allocation_limit_; }

 private:
  VulkanDevice() = default;
  Status look_up();  ///< the device's functions and memory, once there is a handle
  std::unique_ptr<VulkanInstance> instance_;
  DeviceInfo info_;
  DeviceFunctions fn_;
  VkDevice handle_ = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory_{};
  uint64_t allocation_limit_ = UINT64_MAX;
  std::array<DeviceQueue, 1 + kDecodeQueues> queues_;
  std::vector<uint32_t> families_;
  std::atomic<bool> lost_{false}, abandoned_{false};
};

}  // namespace nwc
