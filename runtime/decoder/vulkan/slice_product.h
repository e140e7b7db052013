// Products with slices of rows of coded tensors, from payloads to partial results: for VulkanFusedProduct.
#pragma once

#include <optional>

#include "runtime/decoder/vulkan/window_slot.h"
#include "runtime/format/nwc_file.h"

namespace nwc {

class VulkanSelfTest;

/// A view whose beginning a binding may have, and the number of f32 before the first one that is meant.
struct FloatView {
  FloatView(const BufferView& view, uint64_t alignment) {
    const uint64_t begin = view.offset / alignment * alignment;
    bound = {view.buffer, begin, view.offset + view.size - begin};
    at = static_cast<uint32_t>((view.offset - begin) / sizeof(float));
  }
  BufferView bound;
  uint32_t at;
};

class SliceProduct {
 public:
  virtual ~SliceProduct() = default;

  /// Rows [push.row_begin, push.row_end) of a window, whole bands of tiles.
  struct Slice {
    RansVariant variant;  ///< that choose() gave
    RansPush push;        ///< of the slice's tiles
    TileGrid grid;        ///< of the tensor
    BufferView window;    ///< the window's input
    BufferView x;         ///< f32 [vectors][n], so many elements from vector to vector:
    uint64_t x_stride = 0;
    uint32_t vectors = 1;
    BufferView partials;  ///< f32 [DeviceSynthesis::product_bands][vectors][rows]
  };
  /// The rANS kernel for products with a tensor of so many tables; nullopt if none works.
  virtual std::optional<RansVariant> choose(VulkanSelfTest& self_test, size_t used_tables, uint32_t vectors) const = 0;
  /// Whether products with this tensor are possible. Errors: kUnsupported: a band of tiles is more than the device's
  /// bindings or dispatches take.
  virtual Status check(const TensorRecord& record) const = 0;
  /// Rows that a slice may have: whole bands of tiles. For a tensor that check() accepts.
  virtual uint64_t most_rows(const TileGrid& grid) const = 0;
  /// Records the slice, or a part of what it takes, with the barriers in between. What keeps the device busy for long
  /// is submitted and waited for on the way, and the batch begins anew. Errors: kDevice, kDeviceLost.
  virtual Status add(CommandBatch& batch, const Slice& slice) = 0;
  /// Records the rest: partial results of all slices are there after the next barrier.
  virtual Status finish(CommandBatch& batch) = 0;
  /// Forgets slices of a batch that is thrown away.
  virtual void reset() = 0;
  virtual uint64_t device_bytes() const = 0;
};

}  // namespace nwc
