// How a codec's values become weights and products on a device. Linear or network: nothing else in this folder asks.
#pragma once

#include <memory>
#include <vector>

#include "runtime/decoder/decoder.h"
#include "runtime/decoder/vulkan/slice_product.h"

namespace nwc {

struct DeviceContext;

/// Where a kernel writes weights: part of a buffer, the first row's first element in it, elements from row to row.
struct WeightsOutput {
  BufferView view;
  uint64_t at = 0, stride = 0;
};

class DeviceSynthesis {
 public:
  virtual ~DeviceSynthesis() = default;
  /// For kernels on this device. codec must outlive it.
  static std::unique_ptr<DeviceSynthesis> create(const CodecRecord& codec, const DeviceInfo& device);
  /// With the smallest workgroups of any device: for upper estimates from the metadata alone.
  static std::unique_ptr<DeviceSynthesis> create_for_estimates(const CodecRecord& codec);

  /// Brings what its kernels read of the codec to the device, once. Errors: kLimit, kOutOfMemory, kDevice, kDeviceLost.
  virtual Status upload(VulkanDevice& device, PipelineCache& pipelines) = 0;
  virtual uint64_t device_bytes() const = 0;
  /// What the rANS kernel needs to make weights, for TensorContexts::network.
  virtual std::vector<float> window_numbers() const = 0;
  /// Whether the rANS kernel may leave the skip weights out.
  virtual bool is_identity() const = 0;

  /// Changes the path of weights, in which the rANS kernel alone makes them, to the kernels that the codec needs.
  virtual void route(WindowPath* path) const = 0;
  /// Lowers the limits of windows that take this path to what its kernels can do at a time.
  virtual void limit(const WindowPath& path, WindowLimits* limits) const = 0;
  /// Records the kernel that takes the values of a window on, where its path says that there is one.
  virtual Status dispatch(WindowSlot& slot, const WindowRun& run, const WeightsOutput& out) = 0;
  /// Passes known values of this variant through that kernel. Errors: kNoDevice, kDevice, kDeviceLost, kOutOfMemory.
  virtual Status check(VulkanSelfTest& self_test, const RansVariant& variant) = 0;

  /// Partial results of a product for each row and vector.
  virtual uint64_t product_bands(const TileGrid& grid) const = 0;
  /// The most that create_product() takes of the device's memory.
  virtual uint64_t product_bytes(const NwcFile& file, const VulkanOptions& options) const = 0;
  /// What multiplies slices of rows, after its kernels have proved themselves. The context must outlive it; the caller
  /// holds its mutex. Errors: kOutOfMemory, kDevice, kDeviceLost.
  virtual Result<std::unique_ptr<SliceProduct>> create_product(DeviceContext& context) = 0;
};

/// (step, shrink) of every level, then the skip weights.
std::vector<float> linear_numbers(const CodecRecord& codec);
/// Copies constant data to a buffer of its own. Errors: kLimit, kOutOfMemory, kDevice, kDeviceLost.
Result<DeviceBuffer> upload_constant(VulkanDevice& device, PipelineCache& pipelines, Bytes bytes);
/// Multiply-accumulates that a submission may keep the device busy with, so that the system does not take it for one
/// that hangs.
double most_submission_macs(const DeviceInfo& device);

}  // namespace nwc
