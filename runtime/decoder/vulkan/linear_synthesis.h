// A linear codec on a device: the rANS kernel makes weights and products by itself.
#pragma once

#include "runtime/decoder/vulkan/device_synthesis.h"

namespace nwc {

class LinearSynthesis final : public DeviceSynthesis {
 public:
  explicit LinearSynthesis(const CodecRecord& codec) : codec_(codec) {}

  Status upload(VulkanDevice&, PipelineCache&) override { return {}; }
  uint64_t device_bytes() const override { return 0; }
  std::vector<float> window_numbers() const override { return linear_numbers(codec_); }
  bool is_identity() const override { return codec_.synthesis.is_identity(); }

  void route(WindowPath*) const override {}
  void limit(const WindowPath&, WindowLimits*) const override {}
  Status dispatch(WindowSlot&, const WindowRun&, const WeightsOutput&) override { return {}; }
  Status check(VulkanSelfTest&, const RansVariant&) override { return {}; }

  uint64_t product_bands(const TileGrid& grid) const override { return grid.tiles_per_row(); }
  uint64_t product_bytes(const NwcFile&, const VulkanOptions&) const override { return 0; }
  Result<std::unique_ptr<SliceProduct>> create_product(DeviceContext& context) override;

 private:
  const CodecRecord& codec_;
};

}  // namespace nwc
