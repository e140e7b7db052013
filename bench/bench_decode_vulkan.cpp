// Decoding to the device's own memory, against copying as many bytes there.
#include "bench/bench_decode_vulkan.h"

#include "runtime/decoder/decoder_vulkan.h"

namespace nwc::bench {

struct DeviceMemory::Impl {
  VulkanDecoder& decoder;
  DeviceBuffer from, to;
  std::unique_ptr<CommandBatch> batch;
};

DeviceMemory::DeviceMemory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceMemory::~DeviceMemory() = default;

std::unique_ptr<DeviceMemory> DeviceMemory::create(Decoder& decoder, uint64_t bytes) {
  VulkanDecoder* vulkan = decoder.vulkan();
  if (vulkan == nullptr) return nullptr;
  auto from = DeviceBuffer::create(vulkan->device(), bytes, MemoryKind::kDevice);
  auto to = DeviceBuffer::create(vulkan->device(), bytes, MemoryKind::kDevice);
  auto batch = CommandBatch::create(vulkan->device(), vulkan->pipelines());
  check(batch.status());
  if (!from.ok() || !to.ok()) return nullptr;
  return std::unique_ptr<DeviceMemory>(new DeviceMemory(
      std::make_unique<Impl>(Impl{*vulkan, std::move(from).value(), std::move(to).value(), std::move(batch).value()})));
}

void DeviceMemory::decode(uint64_t rows) {
  DeviceDecodeRequest request;
  request.row_end = rows;
  request.out = &impl_->to;
  check(impl_->decoder.decode_to_device({&request, 1}));
}

void DeviceMemory::copy(uint64_t bytes) {
  check(impl_->batch->begin());
  impl_->batch->copy(impl_->from, 0, impl_->to, 0, bytes);
  check(impl_->batch->submit_and_wait());
}

}  // namespace nwc::bench
