// Products with coded matrices on a Vulkan device, straight from their payload: nothing decoded is written out
// (doc/architecture.md, "Fused product").
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "runtime/codec/fused_product.h"
#include "runtime/decoder/vulkan/device_decoder.h"

namespace nwc {

/// Keeps the payloads of coded tensors on the device and multiplies by them, in the caller's batches. Calls exclude
/// each other and those of the decoder.
class VulkanFusedProduct {
 public:
  /// A network's kernel proves itself here, other kernels when they are first used. Errors: kUnsupported (the file has
  /// no codec), kOutOfMemory, kDevice, kDeviceLost.
  static Result<std::unique_ptr<VulkanFusedProduct>> create(DeviceDecoder& decoder);

  /// Reads the tensor, checks it, decodes it once without keeping anything, and holds its payload on the device.
  /// Errors: kInvalidArgument (not coded), kUnsupported (a band of tiles that no binding of the device can hold), those
  /// of the data as the CPU gives them, kOutOfMemory, kDevice, kDeviceLost.
  Status load(size_t tensor, bool check_crc = true);
  void unload(size_t tensor) { loaded_.erase(tensor); }
  bool is_loaded(size_t tensor) const { return loaded_.count(tensor) != 0; }

  /// y[v][m] = x[v][n] W^T for `batch` vectors v, or y += with `accumulate`; f32, with so many numbers from vector to
  /// vector. Both views begin at a multiple of 4 bytes.
  struct Product {
    size_t tensor = 0;
    uint32_t batch = 1;  ///< 1 to kMaxFusedBatch
    BufferView x;
    uint64_t x_stride = 0;
    BufferView y;
    uint64_t y_stride = 0;
    bool accumulate = false;
  };
  /// Records products that do not depend on each other, barriers before and after included. y is within the tolerance
  /// of FusedProduct (runtime/codec/fused_product.h); it depends neither on what else is recorded nor, within one
  /// kernel variant, on anything but x. Batches that share this object run one after the other. Products with a network
  /// that would keep the device busy for long (most_submission_macs) are split: what has been recorded until there
  /// is submitted and waited for, and the batch begins anew. Errors: kInvalidArgument (not loaded, batch, views),
  /// kDevice, kDeviceLost; the batch is to be thrown away then.
  Status record(CommandBatch& batch, std::span<const Product> products);

  /// Bytes of payloads, partial results and a network's values.
  uint64_t device_bytes() const;
  /// Upper estimates from the metadata alone: what a loaded tensor holds; what all share, staging memory while loading
  /// included. With the decoder's options.
  static uint64_t max_tensor_bytes(const NwcFile& file, size_t tensor, const VulkanOptions& options);
  static uint64_t max_shared_bytes(const NwcFile& file, const VulkanOptions& options);

 private:
  explicit VulkanFusedProduct(DeviceContext& context) : context_(context) {}

  struct Window {
    WindowLayout layout;
    uint32_t global_context_at = 0;  ///< of contexts for tables that are not in shared memory
    uint64_t offset = 0;             ///< in the payload's buffer
  };
  struct Loaded {
    TensorContexts contexts;  ///< without its lists
    size_t used_tables = 0;
    std::vector<Window> windows;
    DeviceBuffer payload;
  };
  struct Reduction {
    BufferView partials, window, y;
    ReducePush sums;
  };

  /// The part of the file that holds a tensor's payloads, for the device to copy from; no buffer where it cannot.
  struct ImportedFile {
    DeviceBuffer buffer;
    uint64_t begin = 0;  ///< what lies in the file here...
    uint64_t at = 0;     ///< ...is here in the buffer
  };
  ImportedFile import_payloads(const CodedTensor& coded);
  Status load_with(size_t tensor, const CodedTensor& coded, const RansVariant& variant, bool check_crc, Loaded* out);
  Status check_product(const Product& product) const;
  Status record_product(CommandBatch& batch, const Product& product);
  Status reduce(CommandBatch& batch);

  DeviceContext& context_;
  std::unique_ptr<SliceProduct> slices_;
  bool imports_ = true;  ///< until it fails
  std::map<size_t, Loaded> loaded_;
  DeviceBuffer partials_;
  uint64_t partials_used_ = 0;  ///< bytes
  std::vector<Reduction> reductions_;
};

}  // namespace nwc
