// A codec with a synthesis network on a device: the rANS kernel gives values, and a kernel of its own takes them on.
#pragma once

#include <vector>

#include "runtime/decoder/vulkan/device_synthesis.h"

namespace nwc {

class NetworkSynthesis final : public DeviceSynthesis {
 public:
  NetworkSynthesis(const CodecRecord& codec, const DeviceInfo& device);

  Status upload(VulkanDevice& device, PipelineCache& pipelines) override;
  uint64_t device_bytes() const override { return network_.size(); }
  std::vector<float> window_numbers() const override { return {}; }
  bool is_identity() const override { return false; }

  void route(WindowPath* path) const override;
  void limit(const WindowPath& path, WindowLimits* limits) const override;
  Status dispatch(WindowSlot& slot, const WindowRun& run, const WeightsOutput& out) override;
  Status check(VulkanSelfTest& self_test, const RansVariant& variant) override;

  uint64_t product_bands(const TileGrid& grid) const override { return ceil_div(grid.n, chunks_); }
  uint64_t product_bytes(const NwcFile& file, const VulkanOptions& options) const override;
  Result<std::unique_ptr<SliceProduct>> create_product(DeviceContext& context) override;

  /// Partial results [product_bands][num_vectors][num_rows] of `blocks` row blocks (at most kMaxGroups) of a tensor.
  /// values: as the shader synthesis_mlp_product wants them.
  Status dispatch_product(CommandBatch& batch, const BufferView& window, const BufferView& values,
                          const BufferView& partials, const NetworkPush& push, uint32_t blocks);
  /// Multiply-accumulates per weight.
  double mac_per_weight() const { return codec_.synthesis.mac_per_weight(); }

 private:
  const CodecRecord& codec_;
  double most_macs_;
  PipelineKey synthesis_;  ///< synthesis_mlp, but for its last constant, the output
  PipelineKey product_;    ///< synthesis_mlp_product
  uint32_t chunks_ = 64;   ///< of a workgroup, an even number; columns of a product's band
  DeviceBuffer network_;
};

}  // namespace nwc
