#include "runtime/decoder/vulkan/vulkan_decoder.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

Status needs_cpu(const std::string& what) {
  return Status(StatusCode::kDeviceLost, str_cat(what, ": the Vulkan device was lost: decode on the CPU"));
}

Status check_integer_request(const NwcFile& file, const DeviceIntegerRequest& request) {
  if (request.tensor >= file.tensors().size() || file.tensors()[request.tensor].storage != Storage::kCoded)
    return invalid_argument(str_cat("tensor ", request.tensor, " is not a coded one"));
  const TensorRecord& record = file.tensors()[request.tensor];
  const IntegerForm* form = request.form;
  if (form == nullptr || form->rows != record.rows() || form->cols != record.cols())
    return invalid_argument(str_cat(record.name, ": the form is another tensor's"));
  const BufferView& out = request.out;
  if (out.buffer == nullptr || out.offset % 64 != 0)
    return invalid_argument(str_cat(record.name, ": the output must be a buffer, from a multiple of 64 bytes on"));
  const uint64_t need = DeviceForm(*form).bytes;
  if (out.size >= need && out.buffer->size() >= out.offset && out.buffer->size() - out.offset >= need) return {};
  return Status(StatusCode::kBufferTooSmall,
                str_cat(record.name, ": needs ", need, " bytes of the device's buffer, there are ", out.size));
}

}  // namespace

Result<std::unique_ptr<VulkanDecoder>> VulkanDecoder::create(const NwcFile& file, Runner& runner,
                                                             const VulkanOptions& options, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<DeviceContext> made, DeviceContext::create(file, runner, options, log));
  std::unique_ptr<VulkanDecoder> self(new VulkanDecoder(std::move(made)));
  const DeviceContext& context = *self->context_;
  NWC_ASSIGN_OR_RETURN(
      self->stream_, WindowStream::create(file, runner, *context.device, *context.pipelines, options.max_window_bytes));
  if (context.kernels != nullptr) self->stream_->set_codec(context.tables, *context.kernels, *context.self_test);
  return self;
}

Status VulkanDecoder::decode(const DecodeRequest& request) {
  NWC_TRY(check_request(context_->file, request));
  if (context_->file.tensors()[request.tensor].storage != Storage::kCoded)
    return decode_raw_rows(context_->file, request);
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
  if (tensor >= context_->file.tensors().size() || context_->file.tensors()[tensor].storage != Storage::kCoded) {
    return invalid_argument(str_cat("tensor ", tensor, " is not a coded one"));
  }
  const TensorRecord& record = context_->file.tensors()[tensor];
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
    NWC_TRY(check_rows(context_->file, request.tensor, request.row_begin, request.row_end, request.dtype));
    const TensorRecord& record = context_->file.tensors()[request.tensor];
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

Status VulkanDecoder::decode_to_buffers(std::span<const OwnersBufferRequest> requests, const Progress& progress) {
  if (!context_->device->borrowed())
    return unsupported("the buffers are of another device than the decoder's: create the decoder on their device");
  std::vector<DeviceBuffer> buffers(requests.size());
  std::vector<DeviceDecodeRequest> to_device;
  for (size_t i = 0; i < requests.size(); ++i) {
    const OwnersBufferRequest& r = requests[i];
    // A handle is a pointer or a number of 64 bits, as the machine has it.
    VkBuffer handle = VK_NULL_HANDLE;
    static_assert(sizeof handle <= sizeof r.buffer);
    std::memcpy(&handle, &r.buffer, sizeof handle);
    if (handle == VK_NULL_HANDLE || r.offset > r.buffer_bytes)
      return invalid_argument(str_cat("request ", i, " has no buffer, or begins behind its end"));
    buffers[i] = DeviceBuffer::borrow(handle, r.buffer_bytes);
    to_device.push_back({r.tensor, r.row_begin, r.row_end, r.dtype,
                         BufferView(&buffers[i], r.offset, r.buffer_bytes - r.offset), r.check_crc});
  }
  return decode_to_device(to_device, progress);
}

Status VulkanDecoder::integers_to_device(std::span<const DeviceIntegerRequest> requests) {
  for (const DeviceIntegerRequest& request : requests) {
    NWC_TRY(check_integer_request(context_->file, request));
  }
  const std::lock_guard<std::mutex> lock(integers_mutex_);
  double seconds = 0;
  const Status status = integers_.decode(requests, [&](std::span<const DecodeJob> jobs) -> Status {
    NWC_TRY(run_jobs(jobs, {}));
    seconds += last_seconds_;
    return {};
  });
  last_seconds_ = seconds + integers_.kernel_seconds();
  return status;
}

Status VulkanDecoder::run_jobs(std::span<const DecodeJob> jobs, const Progress& progress) {
  if (jobs.empty()) return {};
  const std::lock_guard<std::mutex> lock(context_->mutex);
  if (context_->device->lost()) return needs_cpu(context_->file.tensors()[jobs.front().tensor].name);
  // A kernel that fails where the CPU does not is given up, and the next one tries the same jobs from their beginning.
  Status failure;
  for (;;) {
    Status status = run_smaller(jobs, progress);
    last_seconds_ = stream_->kernel_seconds();
    if (status.code() != StatusCode::kDevice) return status;
    if (!stream_->last_variant()) return failure.ok() ? status : failure;
    context_->self_test->quarantine(*stream_->last_variant(), status.message());
    failure = std::move(status);
  }
}

Status VulkanDecoder::run_smaller(std::span<const DecodeJob> jobs, const Progress& progress) {
  for (uint32_t shrink = 1;; shrink *= 2) {
    Status status = stream_->run(jobs, shrink, progress);
    if (status.code() != StatusCode::kOutOfMemory) return status;
    // A device may refuse what its limits promise. The least is a tile.
    const std::string& name = context_->file.tensors()[jobs.front().tensor].name;
    if (!stream_->can_shrink(shrink)) return status.with_context(name);
    context_->log.log(LogLevel::kInfo, str_cat(name, ": ", status.message(), "; trying windows of at most ",
                                               context_->options.max_window_bytes / 4 / shrink, " bytes"));
  }
}

Result<double> VulkanDecoder::time_device_copy(uint64_t bytes, int repetitions) {
  const std::lock_guard<std::mutex> lock(context_->mutex);
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer from, DeviceBuffer::create(*context_->device, bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer to, DeviceBuffer::create(*context_->device, bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch,
                       CommandBatch::create(*context_->device, *context_->pipelines));
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
  return stream_->device_bytes() + integers_.device_bytes() +
         (context_->kernels == nullptr ? 0 : context_->kernels->device_bytes() + context_->test_slot->device_bytes());
}

uint64_t VulkanDecoder::host_bytes() const {
  return stream_->host_bytes() + integers_.host_bytes() +
         (context_->test_slot == nullptr ? 0 : context_->test_slot->host_bytes());
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
