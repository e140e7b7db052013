// The Vulkan backend: coded tensors are decoded window by window on the device, raw ones on the host.
#pragma once

#include <mutex>
#include <optional>

#include "runtime/decoder/decoder_vulkan_self_test.h"

namespace nwc {

class VulkanDecoder final : public Decoder {
 public:
  static Result<std::unique_ptr<VulkanDecoder>> create(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log);

  const std::string& name() const override { return name_; }
  bool is_vulkan() const override { return true; }
  /// One call at a time runs; others wait.
  Status decode(const DecodeRequest& request) override;
  Status decode_values(size_t tensor, std::span<int16_t> out) override;

  /// Messages of the validation layer so far, and whether it is on.
  uint64_t validation_messages() const { return device_->instance().validation_messages(); }
  bool validation_enabled() const { return device_->instance().validation_enabled(); }
  const DeviceInfo& device_info() const { return device_->info(); }
  /// For who computes on the same device, in batches of his own.
  VulkanDevice& device() { return *device_; }
  PipelineCache& pipelines() { return *pipelines_; }
  /// The rANS variant for a tensor with that many tables in use; nullopt if none works.
  std::optional<RansVariant> choose_variant(size_t used_tables);

 private:
  VulkanDecoder(const NwcFile& file, Runner& runner, const VulkanOptions& options, const Logger& log)
      : file_(file), runner_(runner), options_(options), log_(log) {}

  /// What is to be decoded: rows of a tensor to `out`, as values or as weights.
  struct Job {
    size_t tensor = 0;
    uint64_t row_begin = 0, row_end = 0;
    bool values_only = false;
    Dtype dtype = Dtype::kF32;
    bool check_crc = true;
    Progress progress;
    uint8_t* out = nullptr;
  };
  Status run_job(const Job& job);
  /// With one variant, in windows as large as the device can take.
  Status run_with(const Job& job, const CodedTensor& coded, const TensorContexts& contexts, const RansVariant& variant);
  Status run_windows(const Job& job, const CodedTensor& coded, const TensorContexts& contexts,
                     const RansVariant& variant, const WindowLimits& limits);
  Status run_window(const Job& job, const CodedTensor& coded, const TensorContexts& contexts,
                    const RansVariant& variant, const WindowLayout& layout);
  /// What the scalar decoder says of a tile: the device's status words only say that something is wrong.
  Status check_tile(const Job& job, const CodedTensor& coded, uint64_t tile) const;

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
  std::unique_ptr<VulkanSelfTest> self_test_;
};

}  // namespace nwc
