#include <algorithm>
#include <chrono>

#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/device_rates.h"
#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc {
namespace {

constexpr uint32_t kProbeRows = 4096, kProbeCols = 2048;  // 16 MiB of f16, more than most caches
constexpr int kPasses = 3;

/// The least time to record a batch and have it run, the first one left out.
template <typename Record>
Result<double> least_seconds(CommandBatch& batch, Record&& record) {
  double least = 1e9;
  for (int i = 0; i <= kPasses; ++i) {
    const auto start = std::chrono::steady_clock::now();
    NWC_TRY(batch.begin());
    NWC_TRY(record());  // which may submit parts
    batch.barrier();
    NWC_TRY(batch.submit_and_wait());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i != 0) least = std::min(least, seconds);
  }
  return std::max(least, 1e-9);
}

}  // namespace

Result<double> device_memory_rate(Decoder& decoder) {
  DeviceDecoder* const vulkan = decoder.on_device();
  if (vulkan == nullptr) return Status(StatusCode::kNoDevice, "the decoder has no Vulkan device");
  VulkanDevice& device = vulkan->device();
  const uint64_t bytes = uint64_t{kProbeRows} * kProbeCols * 2;
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer weights, DeviceBuffer::create(device, bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer x, DeviceBuffer::create(device, kProbeCols * 4, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer y, DeviceBuffer::create(device, kProbeRows * 4, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, vulkan->pipelines()));
  NWC_TRY(batch->begin());
  batch->fill(weights, bytes, 0x3c003c00);
  batch->fill(x, kProbeCols * 4, 0x3f800000);
  batch->barrier();
  NWC_TRY(batch->submit_and_wait());
  const LayerOps ops(device, Dtype::kF16);
  NWC_ASSIGN_OR_RETURN(const double seconds, least_seconds(*batch, [&] {
                         return ops.matmul(*batch, {&weights, 0, Dtype::kF16, kProbeRows, kProbeCols}, 1,
                                           {&x, 0, kProbeCols}, {&y, 0, kProbeRows}, false);
                       }));
  return static_cast<double>(bytes) / seconds;
}

Result<double> device_fused_rate(const NwcFile& file, Decoder& decoder, uint64_t most_weights) {
  DeviceDecoder* const vulkan = decoder.on_device();
  if (vulkan == nullptr) return Status(StatusCode::kNoDevice, "the decoder has no Vulkan device");
  size_t tensor = 0;
  uint64_t largest = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& record = file.tensors()[i];
    const uint64_t weights = record.storage == Storage::kCoded ? record.num_elements() : 0;
    if (weights > most_weights || weights <= largest) continue;
    tensor = i;
    largest = weights;
  }
  if (largest == 0) return 0.0;
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<VulkanFusedProduct> product, VulkanFusedProduct::create(*vulkan));
  NWC_TRY(product->load(tensor));
  VulkanDevice& device = vulkan->device();
  const TensorRecord& record = file.tensors()[tensor];
  const uint64_t x_bytes = record.cols() * 4, y_bytes = record.rows() * 4;
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer x, DeviceBuffer::create(device, x_bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer y, DeviceBuffer::create(device, y_bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, vulkan->pipelines()));
  NWC_TRY(batch->begin());
  batch->fill(x, x_bytes, 0x3f800000);
  batch->barrier();
  NWC_TRY(batch->submit_and_wait());
  const VulkanFusedProduct::Product job{tensor, 1, &x, record.cols(), &y, record.rows(), false};
  NWC_ASSIGN_OR_RETURN(const double seconds, least_seconds(*batch, [&] { return product->record(*batch, {&job, 1}); }));
  return static_cast<double>(largest) / seconds;
}

}  // namespace nwc
