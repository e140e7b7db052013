#include "runtime/decoder/vulkan/device_synthesis.h"

#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/vulkan/linear_synthesis.h"
#include "runtime/decoder/vulkan/network_synthesis.h"

namespace nwc {

std::unique_ptr<DeviceSynthesis> DeviceSynthesis::create(const CodecRecord& codec, const DeviceInfo& device) {
  if (codec.synthesis.width == 0) return std::make_unique<LinearSynthesis>(codec);
  return std::make_unique<NetworkSynthesis>(codec, device);
}

std::unique_ptr<DeviceSynthesis> DeviceSynthesis::create_for_estimates(const CodecRecord& codec) {
  DeviceInfo least;
  least.max_shared_memory = 16 << 10;  // what Vulkan guarantees
  least.quirks.software = true;        // which leaves workgroups as small as they get
  return create(codec, least);
}

Result<DeviceBuffer> upload_constant(VulkanDevice& device, PipelineCache& pipelines, Bytes bytes) {
  if (bytes.size() > device.info().max_storage_range) {
    return limit_error(str_cat("the codec's ", bytes.size(), " bytes exceed the device's buffer range"));
  }
  NWC_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::create(device, bytes.size(), MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer upload, DeviceBuffer::create(device, bytes.size(), MemoryKind::kUpload));
  std::memcpy(upload.mapped().data(), bytes.data(), bytes.size());
  NWC_TRY(upload.flush());
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, pipelines));
  NWC_TRY(batch->begin());
  batch->copy(upload, 0, buffer, 0, bytes.size());
  batch->barrier();
  NWC_TRY(batch->submit_and_wait());
  return buffer;
}

double most_submission_macs(const DeviceInfo& device) {
  // Tenths of a second on a small GPU, a second or two in software.
  constexpr double kMacs = 6e10, kMacsSoftware = 4e9;
  return device.quirks.software ? kMacsSoftware : kMacs;
}

}  // namespace nwc
