// The backend interface: one decoder per open file and device.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/borrowed_device.h"
#include "runtime/base/cpu_features.h"
#include "runtime/base/log.h"
#include "runtime/base/thread_pool.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/format/nwc_file.h"

namespace nwc {

struct DecodeRequest {
  size_t tensor = 0;
  uint64_t row_begin = 0, row_end = 0;  ///< rows of the matrix [m][n]
  Dtype dtype = Dtype::kF16;            ///< kF32, kF16 or kBf16
  MutableBytes out;                     ///< (row_end - row_begin) * n elements
  bool check_crc = true;
  Progress progress;
};

/// Rows of a tensor to a buffer of a borrowed device's owner, packed [rows][n].
struct OwnersBufferRequest {
  size_t tensor = 0;
  uint64_t row_begin = 0, row_end = 0;
  Dtype dtype = Dtype::kF16;  ///< kF32, kF16 or kBf16
  uint64_t buffer = 0;        ///< VkBuffer, with the usages STORAGE_BUFFER and TRANSFER_DST
  uint64_t buffer_bytes = 0;  ///< that the buffer was made with
  uint64_t offset = 0;        ///< of the first element: a multiple of 4
  bool check_crc = true;
};

class DeviceDecoder;  // runtime/decoder/vulkan/device_decoder.h

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// "cpu avx512", "vulkan llvmpipe (LLVM 15.0.6, 256 bits)".
  /// May change between calls of decode; the string lives as long as the decoder.
  virtual const std::string& name() const = 0;
  /// The decoder that works on a Vulkan device, for those who compute there too: this one, or one that this one passes
  /// requests to. Null where the CPU decodes, which may begin when a device fails.
  virtual DeviceDecoder* on_device() { return nullptr; }
  /// Raw tensors are converted between float types; a raw tensor of another type: kUnsupported.
  virtual Status decode(const DecodeRequest& request) = 0;
  /// Does decode_integers work? On a device it does not, whose DeviceDecoder has integers_to_device.
  virtual bool decodes_integers() const { return false; }
  /// errors: kUnsupported (decodes_integers() is false), those of decode_integers (runtime/codec/integer_decode.h)
  virtual Status decode_integers(std::span<const IntegerRequest> requests);
  /// Decodes to buffers of the borrowed device's owner (VulkanOptions::borrowed). The work is done when the call
  /// returns; the owner's commands need a barrier before they read. Progress in tiles.
  /// errors: kUnsupported (nothing is borrowed, or the CPU decodes), those of decode; after one the rows are
  /// unspecified
  virtual Status decode_to_buffers(std::span<const OwnersBufferRequest> requests, const Progress& progress);
  /// Exact reconstruction indices of a coded tensor, as decode_tensor_values (runtime/codec/tensor_decode.h).
  virtual Status decode_values(size_t tensor, std::span<int16_t> out) = 0;
};

/// file and runner must outlive the decoder. Thread-safe where the runner is.
Result<std::unique_ptr<Decoder>> create_cpu_decoder(const NwcFile& file, Runner& runner, CpuLevel cpu);

/// Bytes that a Vulkan decoder keeps for windows of decoded rows unless a budget asks for less.
inline constexpr uint64_t kMaxWindowBytes = 64u << 20;
/// For VulkanOptions::max_window_bytes within a memory budget (0: none): a sixteenth of it, but 1 MiB at least.
inline uint64_t window_bytes_within(uint64_t budget_bytes) {
  return budget_bytes == 0 ? kMaxWindowBytes : std::clamp<uint64_t>(budget_bytes / 16, 1u << 20, kMaxWindowBytes);
}

struct VulkanOptions {
  int device_index = -1;           ///< -1: best by type (discrete, integrated, virtual, CPU) and memory
  std::string device_name;         ///< substring of the device's name; empty: any
  bool software_renderers = true;  ///< may be chosen, too
  enum class Variant : uint8_t { kAuto, kBallot, kShared } variant = Variant::kAuto;  ///< rANS kernel to force
  bool validation = false;  ///< enable VK_LAYER_KHRONOS_validation; messages go to the log as errors
  /// Optional features of the device not to be used, "ballot,storage16" or "all" (runtime/vulkan/device_features.h);
  /// those in the environment variable NWC_VULKAN_DISABLE come on top.
  std::string disabled_features;
  /// Features to be used wherever the device has them, even if it is not said to gain by them: "dot_product"; those in
  /// NWC_VULKAN_FORCE come on top.
  std::string forced_features;
  /// Where compiled kernels are kept from run to run (runtime/vulkan/pipeline_file.h); empty: nowhere.
  std::string cache_directory;
  /// Test hook of the start-up self-test: pretend that these variants answer wrongly (bit 0 ballot, bit 1 shared).
  uint32_t quarantine_mask = 0;
  uint64_t max_window_bytes = kMaxWindowBytes;  ///< device memory for one window of decoded rows
  /// Tiles that one workgroup of the ballot kernel decodes.
  uint32_t tiles_per_workgroup = 1;
  /// Whether rANS kernels load the stream ahead into shared memory: 0 no, 1 yes, -1 by device.
  int stream_staging = -1;
  /// Test hook: device allocations of more bytes fail.
  uint64_t allocation_limit = UINT64_MAX;
  /// Test hook: kernels see no more of a buffer than so many bytes, as on devices with a small maxStorageBufferRange.
  uint64_t storage_range_limit = UINT64_MAX;
  /// A device to work on instead of one of nwc's own. device_index, device_name, validation and software_renderers are
  /// not looked at then.
  BorrowedDevice borrowed;
};
/// Loads Vulkan at run time, picks a device, passes the start-up known-answer test through every kernel variant it
/// would use; a variant that answers wrongly is dropped with a log line. Errors: kNoDevice (no loader, no device, or no
/// variant works), kDevice. Not thread-safe: one call at a time.
Result<std::unique_ptr<Decoder>> create_vulkan_decoder(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log);

/// The most that such a decoder holds for its own use, on host and device together, side information of the tensors
/// included.
uint64_t vulkan_decoder_bytes(const NwcFile& file, const VulkanOptions& options);
/// What it holds besides once it has decoded tensors to integers in its device's memory.
uint64_t vulkan_integer_bytes(const NwcFile& file, const VulkanOptions& options);

/// Whether an error is the device's (kDevice, kDeviceLost, kOutOfMemory), so that the CPU can do the same work. Errors
/// of the input or of the caller would come back from the CPU.
bool device_failed(const Status& status);

/// `device`, and a CPU decoder in its place as soon as device_failed() holds for one of its errors: what failed is
/// done again, progress starts anew, and a warning says why. Thread-safe; the device serves one call at a time.
std::unique_ptr<Decoder> make_fallback_decoder(std::unique_ptr<Decoder> device, const NwcFile& file, Runner& runner,
                                               const Logger& log);

/// The backend "auto", which means the same everywhere. It is a Vulkan decoder, but never on a software renderer, which
/// would be slower than the CPU decoder. If the device fails, now or later, the CPU decodes, and a log line says why: a
/// warning, unless there is no device and the options named none.
Result<std::unique_ptr<Decoder>> create_auto_decoder(const NwcFile& file, Runner& runner, VulkanOptions options,
                                                     const Logger& log);

enum class Backend : uint8_t { kAuto, kCpu, kVulkan };
/// The decoder that a caller's choice of backend means: create_auto_decoder, create_cpu_decoder at the machine's level,
/// or create_vulkan_decoder. Errors: theirs.
Result<std::unique_ptr<Decoder>> create_decoder(Backend backend, const NwcFile& file, Runner& runner,
                                                const VulkanOptions& options, const Logger& log);

/// Numbered like VkPhysicalDeviceType.
enum class VulkanDeviceType : uint8_t { kOther = 0, kIntegratedGpu = 1, kDiscreteGpu = 2, kVirtualGpu = 3, kCpu = 4 };
struct VulkanDeviceInfo {
  int index = 0;  ///< for VulkanOptions::device_index
  std::string name;
  std::string detail;  ///< driver and versions, or why the device is not usable
  VulkanDeviceType type = VulkanDeviceType::kOther;
  bool usable = false;        ///< has what the decoder requires
  uint64_t memory_bytes = 0;  ///< of the largest device-local heap
};
/// Best first, unusable ones last. Empty without a loader or a driver.
std::vector<VulkanDeviceInfo> list_vulkan_devices();
/// One line per Vulkan device: name, type, driver, or an explanation why there is none.
std::string describe_vulkan_devices();

}  // namespace nwc
