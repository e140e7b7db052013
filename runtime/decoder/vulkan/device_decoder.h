// What a decoder on a Vulkan device offers to those who compute on the same device: Decoder::on_device() gives it.
#pragma once

#include "runtime/decoder/vulkan/device_context.h"

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

/// All rows of a coded tensor as integers in device memory, laid out as a DeviceForm (runtime/codec/device_form.h) from
/// out.offset on, a multiple of 64.
struct DeviceIntegerRequest {
  size_t tensor = 0;
  const IntegerForm* form = nullptr;
  BufferView out;
  bool check_crc = true;
};

class DeviceDecoder : public Decoder {
 public:
  DeviceDecoder* on_device() final { return this; }

  /// All of it, coded tensors and raw ones, many to a submission; the host prepares a submission while the device works
  /// on the one before. Batches that the caller submits afterwards see the result. Nothing else may use the outputs
  /// meanwhile, nor a batch that has not been waited for: decoding has queues of its own where the device has several.
  /// Progress in tiles. Errors and retries as for decode(); after an error `out` is unspecified.
  virtual Status decode_to_device(std::span<const DeviceDecodeRequest> requests, const Progress& progress = {}) = 0;

  /// Likewise, as integers.
  /// errors: as above; kLimit (more outliers than a form has room for); kUnsupported (the kernel that packs them fails)
  virtual Status integers_to_device(std::span<const DeviceIntegerRequest> requests) = 0;

  /// For work that shares the device, its kernels and the file, as VulkanFusedProduct does.
  virtual DeviceContext& context() = 0;
  VulkanDevice& device() { return *context().device; }
  PipelineCache& pipelines() { return *context().pipelines; }

  /// For measurements: with set_timed(true) the device takes the time of the kernels of each decode, from when their
  /// input is in device memory until values or weights are. Times of submissions are added up, also where two of them
  /// overlap; copies and the host's work are left out. last_device_seconds() is that of the last call, and 0 where
  /// nothing was coded, timed, or the device has no timestamps.
  virtual void set_timed(bool timed) = 0;
  virtual double last_device_seconds() const = 0;
  /// The least of several times of a copy of so many bytes within device memory: what the device could do at best.
  /// 0 without timestamps. Errors: kOutOfMemory, kDevice, kDeviceLost.
  virtual Result<double> time_device_copy(uint64_t bytes, int repetitions = 5) = 0;

  /// What the decoder holds for its own use now: tables, network and windows on the device, and staging memory.
  virtual uint64_t device_bytes() const = 0;
  virtual uint64_t host_bytes() const = 0;
};

}  // namespace nwc
