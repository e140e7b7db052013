// The Vulkan backend: coded tensors are decoded window by window on the device, raw ones on the host.
#pragma once

#include <mutex>

#include "runtime/decoder/vulkan/window_stream.h"

namespace nwc {

/// Rows [row_begin, row_end) of a tensor to device memory: in `dtype` (kF32, kF16, kBf16), packed [rows][n], from
/// out.offset on, a multiple of 4.
struct DeviceDecodeRequest {
  size_t tensor = 0;
  uint64_t row_begin = 0, row_end = 0;
  Dtype dtype = Dtype::kF16;
  BufferView out;
  bool check_crc = true;
};

class VulkanDecoder final : public Decoder {
 public:
  static Result<std::unique_ptr<VulkanDecoder>> create(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log);

  const std::string& name() const override { return name_; }
  bool is_vulkan() const override { return true; }
  VulkanDecoder* vulkan() override { return this; }
  /// One call at a time runs; others wait.
  Status decode(const DecodeRequest& request) override;
  Status decode_values(size_t tensor, std::span<int16_t> out) override;
  /// All of it, coded tensors and raw ones, many to a submission; the host prepares a submission while the device works
  /// on the one before. Batches that the caller submits afterwards see the result; batches submitted before finish
  /// reading `out` first. Progress in tiles. Errors and retries as for decode(); after an error `out` is unspecified.
  Status decode_to_device(std::span<const DeviceDecodeRequest> requests, const Progress& progress = {});

  /// For measurements: with set_timed(true) the device takes the time of the kernels of each decode, from when their
  /// input is in device memory until values or weights are (summed over submissions; copies and the host's work left
  /// out). last_device_seconds() is that of the last call; 0 where nothing was coded, timed, or the device has no
  /// timestamps.
  void set_timed(bool timed) { stream_->set_timed(timed); }
  double last_device_seconds() const { return stream_->kernel_seconds(); }
  /// The same for a copy of so many bytes within device memory: what the device could do at best. The least of several.
  /// 0 without timestamps. Errors: kOutOfMemory, kDevice, kDeviceLost.
  Result<double> time_device_copy(uint64_t bytes, int repetitions = 5);

  /// What the decoder holds for its own use now: tables, network and windows on the device, and staging memory.
  uint64_t device_bytes() const;
  uint64_t host_bytes() const;
  /// The most that both together come to, side information of all tensors included, with these options.
  static uint64_t max_scratch_bytes(const NwcFile& file, const VulkanOptions& options);

  /// Messages of the validation layer so far, and whether it is on.
  uint64_t validation_messages() const { return device_->instance().validation_messages(); }
  bool validation_enabled() const { return device_->instance().validation_enabled(); }
  const DeviceInfo& device_info() const { return device_->info(); }
  /// For who computes on the same device, in batches of his own.
  VulkanDevice& device() { return *device_; }
  PipelineCache& pipelines() { return *pipelines_; }

 private:
  friend class VulkanFusedProduct;
  VulkanDecoder(const NwcFile& file, Runner& runner, const VulkanOptions& options, const Logger& log)
      : file_(file), runner_(runner), options_(options), log_(log) {}

  /// With every variant that works, and in windows as large as the device can take.
  Status run_jobs(std::span<const DecodeJob> jobs, const Progress& progress);
  Status run_smaller(std::span<const DecodeJob> jobs, const Progress& progress);

  const NwcFile& file_;
  Runner& runner_;
  VulkanOptions options_;
  Logger log_;
  std::string name_;
  std::mutex mutex_;
  DecodeTables tables_;
  // In order of dependence: the device goes last.
  std::unique_ptr<VulkanDevice> device_;
  std::unique_ptr<PipelineCache> pipelines_;
  std::unique_ptr<VulkanKernels> kernels_;
  std::unique_ptr<WindowStream> stream_;
  std::unique_ptr<WindowSlot> test_slot_;  // the self-test's own: it runs while the stream's are in flight
  std::unique_ptr<VulkanSelfTest> self_test_;
};

}  // namespace nwc
