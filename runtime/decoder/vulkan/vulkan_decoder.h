// The Vulkan backend: coded tensors are decoded window by window on the device, raw ones on the host.
#pragma once

#include "runtime/decoder/vulkan/device_decoder.h"
#include "runtime/decoder/vulkan/device_integers.h"
#include "runtime/decoder/vulkan/window_stream.h"

namespace nwc {

class VulkanDecoder final : public DeviceDecoder {
 public:
  static Result<std::unique_ptr<VulkanDecoder>> create(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log);

  const std::string& name() const override { return context_->name; }
  /// One call at a time runs; others wait.
  Status decode(const DecodeRequest& request) override;
  Status decode_values(size_t tensor, std::span<int16_t> out) override;
  Status decode_to_device(std::span<const DeviceDecodeRequest> requests, const Progress& progress = {}) override;
  Status decode_to_buffers(std::span<const OwnersBufferRequest> requests, const Progress& progress) override;
  Status integers_to_device(std::span<const DeviceIntegerRequest> requests) override;

  DeviceContext& context() override { return *context_; }
  void set_timed(bool timed) override {
    stream_->set_timed(timed);
    integers_.set_timed(timed);
  }
  double last_device_seconds() const override { return last_seconds_; }
  Result<double> time_device_copy(uint64_t bytes, int repetitions = 5) override;
  uint64_t device_bytes() const override;
  uint64_t host_bytes() const override;

  /// The most that device_bytes() and host_bytes() come to together with these options, side information of all
  /// tensors included.
  static uint64_t max_scratch_bytes(const NwcFile& file, const VulkanOptions& options);
  /// What integers_to_device() adds to it.
  static uint64_t max_integer_bytes(const NwcFile& file, const VulkanOptions& options) {
    return DeviceIntegers::max_bytes(file, options.max_window_bytes);
  }

  /// Messages of the validation layer so far, and whether it is on.
  uint64_t validation_messages() const { return context_->device->instance().validation_messages(); }
  bool validation_enabled() const { return context_->device->instance().validation_enabled(); }
  const DeviceInfo& device_info() const { return context_->device->info(); }

 private:
  explicit VulkanDecoder(std::unique_ptr<DeviceContext> context) : context_(std::move(context)), integers_(*context_) {}

  /// Tries every variant that works, in windows as large as the device can take.
  Status run_jobs(std::span<const DecodeJob> jobs, const Progress& progress);
  Status run_smaller(std::span<const DecodeJob> jobs, const Progress& progress);

  const std::unique_ptr<DeviceContext> context_;
  std::unique_ptr<WindowStream> stream_;
  std::mutex integers_mutex_;  ///< taken before the context's
  DeviceIntegers integers_;
  double last_seconds_ = 0;
};

}  // namespace nwc
