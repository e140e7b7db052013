#include "runtime/decoder/vulkan/vulkan_decoder.h"

#include <algorithm>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

Status needs_cpu(const std::string& what) {
  return Status(StatusCode::kDeviceLost, str_cat(what, ": the Vulkan device was lost: decode on the CPU"));
}

}  // namespace

Result<std::unique_ptr<VulkanDecoder>> VulkanDecoder::create(const NwcFile& file, Runner& runner,
                                                             const VulkanOptions& options, const Logger& log) {
  std::unique_ptr<VulkanDecoder> self(new VulkanDecoder(file, runner, options, log));
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(options.validation, log));
  NWC_ASSIGN_OR_RETURN(DeviceInfo info,
                       choose_device(*instance, {options.device_index, options.device_name, options.software_renderers,
                                                 options.disabled_features}));
  info.max_storage_range = std::min(info.max_storage_range, options.storage_range_limit);
  NWC_ASSIGN_OR_RETURN(self->device_, VulkanDevice::create(std::move(instance), info));
  self->device_->set_allocation_limit(options.allocation_limit);
  NWC_ASSIGN_OR_RETURN(self->pipelines_, PipelineCache::create(*self->device_, options.cache_directory));
  self->name_ = str_cat("vulkan ", info.name);
  NWC_ASSIGN_OR_RETURN(self->stream_,
                       WindowStream::create(file, runner, *self->device_, *self->pipelines_, options.max_window_bytes));
  if (!file.codec()) return self;

  const CodecRecord& codec = *file.codec();
  self->tables_ = build_decode_tables(codec);
  NWC_ASSIGN_OR_RETURN(self->kernels_, VulkanKernels::create(*self->device_, *self->pipelines_, codec, self->tables_,
                                                             VulkanSelfTest::extra_tables(), options));
  NWC_ASSIGN_OR_RETURN(self->test_slot_, WindowSlot::create(*self->device_, *self->pipelines_, 0));
  self->self_test_ = std::make_unique<VulkanSelfTest>(*self->kernels_, *self->test_slot_, *self->device_, codec,
                                                      static_cast<uint32_t>(self->tables_.alias.size()), options, log);
  self->stream_->set_codec(self->tables_, *self->kernels_, *self->self_test_);
  const std::optional<RansVariant> variant = self->self_test_->choose(self->tables_.alias.size(), Consumer::kValues);
  if (!variant) {
    return Status(StatusCode::kNoDevice,
                  str_cat(info.name, ": no rANS kernel decodes the known tiles rightly: decode on the CPU"));
  }
  if (codec.synthesis.width != 0) NWC_TRY(self->self_test_->check_network(*variant, Dtype::kF32));
  NWC_TRY(self->self_test_->check_conversion());
  self->pipelines_->save();
  log.log(LogLevel::kInfo, str_cat(self->name_, " (", info.driver, "), subgroups of ", info.subgroup_size,
                                   ", features: ", feature_names(info.features()), ", rANS kernel: ", variant->name()));
  return self;
}

Status VulkanDecoder::decode(const DecodeRequest& request) {
  NWC_TRY(check_request(file_, request));
  if (file_.tensors()[request.tensor].storage != Storage::kCoded) return decode_raw_rows(file_, request);
  DecodeJob job;
  job.tensor = request.tensor;
  job.row_begin = request.row_begin;
  job.row_end = request.row_end;
  job.dtype = request.dtype;
  job.check_crc = request.check_crc;
  job.host = request.out.data();
  return run_jobs({&job, 1}, request.progress);
}

Status VulkanDecoder::decode_values(size_t tensor, std::span<int16_t> out) {
  if (tensor >= file_.tensors().size() || file_.tensors()[tensor].storage != Storage::kCoded) {
    return invalid_argument(str_cat("tensor ", tensor, " is not a coded one"));
  }
  const TensorRecord& record = file_.tensors()[tensor];
  const uint64_t need = ceil_div(record.rows(), kChunk) * record.cols() * kChunk;
  if (out.size() < need) {
    return Status(StatusCode::kBufferTooSmall, str_cat(record.name, ": needs room for ", need, " values"));
  }
  DecodeJob job;
  job.tensor = tensor;
  job.row_end = record.rows();
  job.values_only = true;
  job.host = reinterpret_cast<uint8_t*>(out.data());
  return run_jobs({&job, 1}, {});
}

Status VulkanDecoder::decode_to_device(std::span<const DeviceDecodeRequest> requests, const Progress& progress) {
  std::vector<DecodeJob> jobs;
  for (const DeviceDecodeRequest& request : requests) {
    NWC_TRY(check_rows(file_, request.tensor, request.row_begin, request.row_end, request.dtype));
    const TensorRecord& record = file_.tensors()[request.tensor];
    const uint64_t need = (request.row_end - request.row_begin) * record.cols() * dtype_size(request.dtype);
    const BufferView& out = request.out;
    if (out.buffer == nullptr || out.offset % 4 != 0) {
      return invalid_argument(str_cat(record.name, ": the output must be a buffer, from a multiple of 4 bytes on"));
    }
    if (out.size < need || out.buffer->size() < out.offset || out.buffer->size() - out.offset < need) {
      return Status(StatusCode::kBufferTooSmall,
                    str_cat(record.name, ": needs ", need, " bytes of the device's buffer, there are ", out.size));
    }
    DecodeJob job;
    job.tensor = request.tensor;
    job.row_begin = request.row_begin;
    job.row_end = request.row_end;
    job.dtype = request.dtype;
    job.check_crc = request.check_crc;
    job.device = out;
    jobs.push_back(job);
  }
  return run_jobs(jobs, progress);
}

Status VulkanDecoder::run_jobs(std::span<const DecodeJob> jobs, const Progress& progress) {
  if (jobs.empty()) return {};
  const std::lock_guard<std::mutex> lock(mutex_);
  if (device_->lost()) return needs_cpu(file_.tensors()[jobs.front().tensor].name);
  // A kernel that fails where the CPU does not is given up, and the next one tries the same jobs from their beginning.
  Status failure;
  for (;;) {
    Status status = run_smaller(jobs, progress);
    if (status.code() != StatusCode::kDevice) return status;
    if (!stream_->last_variant()) return failure.ok() ? status : failure;
    self_test_->quarantine(*stream_->last_variant(), status.message());
    failure = std::move(status);
  }
}

Status VulkanDecoder::run_smaller(std::span<const DecodeJob> jobs, const Progress& progress) {
  for (uint32_t shrink = 1;; shrink *= 2) {
    Status status = stream_->run(jobs, shrink, progress);
    if (status.code() != StatusCode::kOutOfMemory) return status;
    // A device may refuse what its limits promise. The least is a tile.
    const std::string& name = file_.tensors()[jobs.front().tensor].name;
    if (!stream_->can_shrink(shrink)) return status.with_context(name);
    log_.log(LogLevel::kInfo, str_cat(name, ": ", status.message(), "; trying windows of at most ",
                                      options_.max_window_bytes / 4 / shrink, " bytes"));
  }
}

Result<double> VulkanDecoder::time_device_copy(uint64_t bytes, int repetitions) {
  const std::lock_guard<std::mutex> lock(mutex_);
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer from, DeviceBuffer::create(*device_, bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer to, DeviceBuffer::create(*device_, bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(*device_, *pipelines_));
  double least = 0;
  for (int i = 0; i < repetitions; ++i) {
    NWC_TRY(batch->begin());
    if (i == 0) batch->fill(from, from.size() / 4 * 4, 0);
    batch->barrier();
    NWC_TRY(batch->start_clock());
    batch->copy(from, 0, to, 0, bytes);
    batch->barrier();
    batch->stop_clock();
    NWC_TRY(batch->submit_and_wait());
    const double seconds = batch->seconds();
    if (i == 0 || seconds < least) least = seconds;
  }
  return least;
}

uint64_t VulkanDecoder::device_bytes() const {
  return stream_->device_bytes() + (kernels_ == nullptr ? 0 : kernels_->device_bytes() + test_slot_->device_bytes());
}

uint64_t VulkanDecoder::host_bytes() const {
  return stream_->host_bytes() + (test_slot_ == nullptr ? 0 : test_slot_->host_bytes());
}

uint64_t VulkanDecoder::max_scratch_bytes(const NwcFile& file, const VulkanOptions& options) {
  const uint64_t constants = file.codec() ? VulkanKernels::max_constant_bytes(*file.codec()) : 0;
  return WindowStream::max_bytes(file, options.max_window_bytes) + constants;
}

Result<std::unique_ptr<Decoder>> create_vulkan_decoder(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanDecoder> decoder, VulkanDecoder::create(file, runner, options, log));
  return std::unique_ptr<Decoder>(std::move(decoder));
}

std::string describe_vulkan_devices() {
  auto instance = VulkanInstance::create(false, Logger{});
  if (!instance.ok()) return str_cat(instance.status().message(), "\n");
  const auto devices = list_devices(**instance);
  if (!devices.ok()) return str_cat(devices.status().message(), "\n");
  if (devices->empty()) return "Vulkan lists no device: install a driver\n";
  std::string text;
  for (const DeviceInfo& device : *devices) {
    text += str_cat(device.index, ": ", device.name, ", ", device_type_name(device.type), ", ", device.driver,
                    ", subgroups of ", device.subgroup_size, ", features: ", feature_names(device.features()));
    text += device.reject_reason.empty() ? "\n" : std::string(str_cat(": not usable, it ", device.reject_reason, "\n"));
  }
  return text;
}

}  // namespace nwc
