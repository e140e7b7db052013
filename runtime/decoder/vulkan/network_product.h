// Products with the tensors of a network codec: slices of rows on their way from the payload through symbols and the
// network to partial results (doc/architecture.md, "On a Vulkan device").
#pragma once

#include <memory>
#include <vector>

#include "runtime/decoder/vulkan/device_context.h"
#include "runtime/decoder/vulkan/network_synthesis.h"

namespace nwc {

/// Symbols go to one half of a buffer while the network's kernel takes those in the other half on.
class NetworkProduct final : public SliceProduct {
 public:
  /// context and network must outlive the result. Errors: kOutOfMemory, kDevice.
  static Result<std::unique_ptr<NetworkProduct>> create(DeviceContext& context, NetworkSynthesis& network);
  /// Bytes of the buffer, on any device: a quarter of the decoder's windows, but room for two bands of tiles.
  static uint64_t bytes_for(const NwcFile& file, const VulkanOptions& options);

  std::optional<RansVariant> choose(VulkanSelfTest& self_test, size_t used_tables, uint32_t) const override {
    return self_test.choose(used_tables, Consumer::kValues);
  }
  Status check(const TensorRecord& record) const override;
  uint64_t most_rows(const TileGrid& grid) const override;
  /// Records what makes the slice's symbols, and the network for slices before it.
  Status add(CommandBatch& batch, const Slice& slice) override;
  Status finish(CommandBatch& batch) override;
  void reset() override;
  uint64_t device_bytes() const override { return buffer_.size(); }

 private:
  struct Decoded {
    BufferView window, values, partials;
    NetworkPush push;
    uint32_t blocks;
    double block_macs;  ///< multiply-accumulates of a row block
  };
  NetworkProduct(VulkanDevice& device, VulkanKernels& kernels, NetworkSynthesis& network)
      : device_(device), kernels_(kernels), network_(network) {}
  Status step(CommandBatch& batch);
  Status run_network(CommandBatch& batch, const Decoded& slice);

  VulkanDevice& device_;
  VulkanKernels& kernels_;
  NetworkSynthesis& network_;
  DeviceBuffer buffer_;  ///< two halves, each with slices: x, status words, values
  uint64_t half_bytes_ = 0;
  uint32_t half_ = 0;  ///< that is being decoded into
  uint64_t used_ = 0;  ///< bytes of it
  std::vector<Decoded> decoding_, decoded_;
  double macs_ = 0;  ///< recorded since the last submission made here
};

}  // namespace nwc
