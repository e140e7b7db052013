// The kernels of one codec on one device: buffers of constant data, specialization constants, and the dispatches of a
// window.
#pragma once

#include <memory>
#include <vector>

#include "runtime/codec/decode_tables.h"
#include "runtime/decoder/vulkan/device_synthesis.h"
#include "runtime/format/codec_record.h"

namespace nwc {

/// Records the end of a product, fused_reduce: the sums of partial results in f32.
Status dispatch_reduce(CommandBatch& batch, const ReducePush& push, const BufferView& partials,
                       const BufferView& window, const BufferView& y);

class VulkanKernels {
 public:
  /// `extra`: further tables, which lie behind the codec's in the device's buffer (the self-test's).
  /// device and pipelines must outlive the kernels.
  static Result<std::unique_ptr<VulkanKernels>> create(VulkanDevice& device, PipelineCache& pipelines,
                                                       const CodecRecord& codec, const DecodeTables& tables,
                                                       const std::vector<AliasTable>& extra,
                                                       const VulkanOptions& options);

  /// Windows that this device can take, in a slot of so many bytes.
  WindowLimits limits(uint64_t slot_bytes, const WindowPath& path, bool read_back) const;
  /// Shared-memory tables to use for a tensor with `used` tables; 0 where they do not fit.
  uint32_t shared_tables(size_t used, bool ballot) const;
  /// The kernels that turn windows of a tensor into values or weights, in the host's memory (read_back) or the
  /// device's.
  WindowPath path(bool values_only, Dtype dtype, const TileGrid& grid, bool read_back) const;

  // Pipeline, number of workgroups and push constants, for code that dispatches the rANS kernel by itself. The caller
  // adds the push constants of the consumer.
  PipelineKey rans_pipeline(const RansVariant& variant) const;
  uint32_t rans_groups(const RansVariant& variant, uint64_t tiles) const;
  static RansPush rans_push(const WindowLayout& layout, const TensorContexts& contexts);
  const DeviceBuffer& tables() const { return tables_; }

  DeviceSynthesis& synthesis() { return *synthesis_; }

  /// Records and submits the windows, for which the slot is prepared and whose input is there. Errors: kDevice,
  /// kDeviceLost, kOutOfMemory. What the tiles came to is in slot.tile_status() after slot.wait().
  /// With `timed`, the batch's seconds() are those of the kernels.
  Status submit(WindowSlot& slot, std::span<const WindowRun> runs, bool timed = false);

  /// The conversion kernel alone, for the self-test: f32 bit patterns in, halves out.
  Result<std::vector<uint16_t>> convert(std::span<const uint32_t> bits, Dtype dtype);

  /// Bytes of constant data: tables and network.
  uint64_t device_bytes() const { return tables_.size() + synthesis_->device_bytes(); }
  /// The most that constant data takes on the device and on the host, while it is being made.
  static uint64_t max_constant_bytes(const CodecRecord& codec);

 private:
  VulkanKernels(VulkanDevice& device, PipelineCache& pipelines) : device_(device), pipelines_(pipelines) {}
  Status dispatch_rans(WindowSlot& slot, const WindowRun& run);
  Status dispatch_convert(CommandBatch& batch, const BufferView& source, const BufferView& halves, uint64_t count,
                          Dtype dtype);

  VulkanDevice& device_;
  PipelineCache& pipelines_;
  uint32_t tiles_together_ = 1;       ///< of a subgroup
  uint32_t tiles_per_workgroup_ = 1;  ///< a multiple of it
  bool staged_ = false;
  std::unique_ptr<DeviceSynthesis> synthesis_;
  DeviceBuffer tables_;
};

}  // namespace nwc
