// Products with the tensors of a network codec: slices of rows on their way from the payload through symbols and the
// network to partial results (doc/architecture.md, "On a Vulkan device"). For VulkanFusedProduct.
#pragma once

#include <memory>
#include <vector>

#include "runtime/decoder/vulkan/codec_kernels.h"
#include "runtime/format/nwc_file.h"

namespace nwc {

/// Symbols go to one half of a buffer while the network's kernel takes those in the other half on.
class VulkanNetworkProduct {
 public:
  /// device and kernels must outlive the result. Errors: kOutOfMemory, kDevice.
  static Result<std::unique_ptr<VulkanNetworkProduct>> create(VulkanDevice& device, VulkanKernels& kernels,
                                                              const NwcFile& file, const VulkanOptions& options);
  /// Of the buffer, on any device: a quarter of the decoder's windows, but room for two bands of tiles.
  static uint64_t bytes_for(const NwcFile& file, const VulkanOptions& options);
  uint64_t device_bytes() const { return buffer_.size(); }

  /// Errors: kUnsupported: a band of tiles is more than the device's bindings or dispatches take.
  Status check(const TensorRecord& record) const;
  /// Rows that a slice may have: bands of tiles, whose symbols have room. For a tensor that check() accepts.
  uint64_t most_rows(const TileGrid& grid) const;

  /// Rows [push.row_begin, push.row_end) of a window, whole bands of tiles.
  struct Slice {
    RansVariant variant;  ///< with the consumer *values*
    RansPush push;        ///< of the slice's tiles
    TileGrid grid;        ///< of the tensor
    BufferView window;    ///< the window's input
    BufferView x;         ///< f32 [vectors][n], so many elements from vector to vector:
    uint64_t x_stride = 0;
    uint32_t vectors = 1;
    BufferView partials;  ///< f32 [column group][vectors][rows], groups of VulkanKernels::network_columns()
  };
  /// Records what makes the slice's symbols, and the network for slices before it; with barriers, and with a submission
  /// and a wait for it where what is recorded keeps the device busy for long. Errors: kDevice, kDeviceLost.
  Status add(CommandBatch& batch, const Slice& slice);
  /// Records the rest: partial results of all slices are there after the next barrier.
  Status finish(CommandBatch& batch);
  /// Forgets slices of a batch that is thrown away.
  void reset();

 private:
  struct Decoded {
    BufferView window, values, partials;
    NetworkPush push;
    uint32_t blocks;
    double block_macs;  ///< multiply-accumulates of a row block
  };
  VulkanNetworkProduct(VulkanDevice& device, VulkanKernels& kernels) : device_(device), kernels_(kernels) {}
  Status step(CommandBatch& batch);
  Status run_network(CommandBatch& batch, const Decoded& slice);

  VulkanDevice& device_;
  VulkanKernels& kernels_;
  DeviceBuffer buffer_;  ///< two halves, each with slices: x, status words, values
  uint64_t half_bytes_ = 0;
  uint32_t half_ = 0;  ///< that is being decoded into
  uint64_t used_ = 0;  ///< bytes of it
  std::vector<Decoded> decoding_, decoded_;
  double macs_ = 0;  ///< recorded since the last submission made here
};

}  // namespace nwc
