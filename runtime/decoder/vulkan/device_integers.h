// Coded tensors to integers in a device's memory: values come out of the rANS kernel, another kernel packs them.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/codec/device_form.h"
#include "runtime/decoder/vulkan/device_decoder.h"
#include "runtime/decoder/vulkan/window_stream.h"

namespace nwc {

/// A DeviceForm in a buffer, from a multiple of 64 bytes on. Kernels see its units in bands of row blocks, and all else
/// in one binding.
struct DeviceFormView {
  DeviceFormView(const DeviceBuffer* buffer, uint64_t offset, const IntegerForm& form, uint64_t offset_alignment);
  struct Units {
    BufferView view;
    uint32_t first_word = 0;  ///< of the first row block within the view
  };
  Units units(uint64_t first_block, uint64_t row_blocks) const;
  /// The word in `rest` of what lies at so many bytes of the form.
  uint32_t index(uint64_t at) const { return static_cast<uint32_t>((offset + at - rest.offset) / 4); }

  const IntegerForm& form;
  const DeviceForm device;
  const uint64_t offset, alignment;
  BufferView rest;
};

/// Dispatches integers_pack over row blocks of a tensor: values [row blocks][cols][16] from values.offset on become
/// units, and outliers, of row block first_block and the ones behind it. The kernel counts outliers on from what the
/// form holds.
Status dispatch_pack(CommandBatch& batch, const DeviceFormView& out, uint64_t first_block, uint64_t row_blocks,
                     const BufferView& values);

/// Dispatches integers_requantize likewise. weights: f32 [rows of the row blocks][cols] before anything is rounded.
Status dispatch_requantize(CommandBatch& batch, const DeviceFormView& out, uint64_t first_block, uint64_t row_blocks,
                           const BufferView& weights);

/// Sends known values through integers_pack. errors: kUnsupported (a wrong answer), kOutOfMemory, kDeviceLost
Status check_pack(VulkanDevice& device, PipelineCache& pipelines);

class DeviceIntegers {
 public:
  DeviceIntegers(DeviceContext& context) : context_(context) {}

  /// Decodes values to the device's memory.
  using DecodeValues = std::function<Status(std::span<const DecodeJob> values)>;
  /// See DeviceDecoder::integers_to_device. One call at a time.
  Status decode(std::span<const DeviceIntegerRequest> requests, const DecodeValues& decode_values);
  /// As WindowStream: the device's time of the packing of the last call.
  void set_timed(bool timed) { timed_ = timed; }
  double kernel_seconds() const { return kernel_seconds_; }
  uint64_t device_bytes() const { return values_.size(); }
  uint64_t host_bytes() const { return upload_.size() + readback_.size(); }
  /// The most that both come to.
  static uint64_t max_bytes(const NwcFile& file, uint64_t window_bytes);

 private:
  /// Rows of a request, whole bands of tiles, and where their values lie.
  struct Piece {
    size_t request = 0;
    uint64_t row_begin = 0, row_end = 0, values_at = 0, values_bytes = 0;
  };
  Status write_heads(std::span<const DeviceIntegerRequest> requests);
  Status pack(std::span<const DeviceIntegerRequest> requests, std::span<const Piece> pieces);
  Status wait();
  Status check_counts(std::span<const DeviceIntegerRequest> requests);
  Status make_room(DeviceBuffer* buffer, uint64_t bytes, MemoryKind kind);

  DeviceContext& context_;
  bool timed_ = false;
  double kernel_seconds_ = 0;
  bool checked_ = false;  ///< that the kernel answers rightly
  DeviceBuffer values_, upload_, readback_;
  std::unique_ptr<CommandBatch> batch_;  // after the buffers: what is in flight ends before they do
};

}  // namespace nwc
