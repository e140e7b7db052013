#include "runtime/decoder/vulkan/linear_synthesis.h"

#include <bit>

#include "runtime/decoder/vulkan/device_context.h"

namespace nwc {
namespace {

/// One dispatch makes a slice's partial results, a band of them for each column of tiles.
class LinearProduct final : public SliceProduct {
 public:
  LinearProduct(const VulkanDevice& device, VulkanKernels& kernels) : device_(device), kernels_(kernels) {}

  std::optional<RansVariant> choose(VulkanSelfTest& self_test, size_t used_tables, uint32_t vectors) const override {
    return self_test.choose(used_tables, Consumer::kProduct, std::bit_ceil(vectors));
  }
  Status check(const TensorRecord&) const override { return {}; }
  uint64_t most_rows(const TileGrid&) const override { return UINT64_MAX; }
  Status add(CommandBatch& batch, const Slice& slice) override {
    const FloatView x(slice.x, device_.info().offset_alignment);
    RansPush push = slice.push;
    push.x_at = x.at;
    push.x_stride = static_cast<uint32_t>(slice.x_stride);
    push.num_vectors = slice.vectors;
    push.tile_cols = slice.grid.tile_cols;
    return batch.dispatch(kernels_.rans_pipeline(slice.variant),
                          {&kernels_.tables(), slice.window, x.bound, slice.partials}, push,
                          kernels_.rans_groups(slice.variant, push.num_tiles));
  }
  Status finish(CommandBatch&) override { return {}; }
  void reset() override {}
  uint64_t device_bytes() const override { return 0; }

 private:
  const VulkanDevice& device_;
  VulkanKernels& kernels_;
};

}  // namespace

std::vector<float> linear_numbers(const CodecRecord& codec) {
  std::vector<float> numbers;
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    numbers.push_back(codec.step[level]);
    numbers.push_back(codec.shrink[level]);
  }
  numbers.insert(numbers.end(), codec.synthesis.skip_weight.begin(), codec.synthesis.skip_weight.end());
  return numbers;
}

Result<std::unique_ptr<SliceProduct>> LinearSynthesis::create_product(DeviceContext& context) {
  return std::unique_ptr<SliceProduct>(std::make_unique<LinearProduct>(*context.device, *context.kernels));
}

}  // namespace nwc
