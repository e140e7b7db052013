// Devices, the choice of a backend, and nwc_decoder.
#include "runtime/base/checked.h"
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"

namespace nwc::c_api {
namespace {

/// Errors: kInvalidArgument (struct_size, no device)
Result<BorrowedDevice> borrowed_device(const nwc_vulkan_objects* objects) {
  nwc_vulkan_objects o;
  NWC_TRY(read_struct(objects, "nwc_vulkan_objects", &o));
  if (o.device == nullptr) return null_argument("nwc_vulkan_objects.device");
  return BorrowedDevice{o.instance,     o.physical_device,        o.device,     o.queue,        o.queue_family,
                        o.created_with, o.get_instance_proc_addr, o.lock_queue, o.unlock_queue, o.user};
}

Result<VulkanOptions> vulkan_options(const BackendChoice& choice) {
  VulkanOptions options;
  if (choice.vulkan != nullptr) {
    NWC_ASSIGN_OR_RETURN(options.borrowed, borrowed_device(choice.vulkan));
  }
  options.device_index = choice.device_index - 1;  // the header's 0, "best", is -1 here
  options.device_name = choice.device_name;
  options.validation = choice.validation;
  options.cache_directory = choice.cache_directory;
  options.max_window_bytes = choice.window_bytes;
  return options;
}

Status check_out_buffer(const TensorRecord& record, nwc_dtype dtype, uint64_t need, const void* out_data,
                        size_t size_bytes) {
  if (size_bytes < need)
    return Status(StatusCode::kBufferTooSmall,
                  str_cat("tensor '", record.name, "' needs ", need, " bytes, the buffer has ", size_bytes));
  if (need == 0) return {};
  if (out_data == nullptr) return null_argument("out_data");
  if (reinterpret_cast<uintptr_t>(out_data) % nwc_dtype_size(dtype) != 0)
    return invalid_argument(str_cat("out_data is not aligned to its elements of ", nwc_dtype_size(dtype), " bytes"));
  return {};
}

Status check_output_dtype(nwc_dtype dtype) {
  if (dtype == NWC_DTYPE_F32 || dtype == NWC_DTYPE_F16 || dtype == NWC_DTYPE_BF16) return {};
  return invalid_argument(
      str_cat("dtype ", dtype, " (", nwc_dtype_string(dtype), "): tensors are decoded to F32, F16 or BF16"));
}

Status check_float_tensor(const TensorRecord& record) {
  if (dtype_is_float(record.dtype)) return {};
  return unsupported(str_cat("tensor '", record.name, "' is of type ", dtype_name(record.dtype),
                             ", which is not converted: take its bytes with nwc_model_read_raw"));
}

/// The tensor, if these rows of it can be decoded to this type.
Result<const TensorRecord*> find_rows(const ModelState& state, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                      nwc_dtype dtype) {
  NWC_ASSIGN_OR_RETURN(const TensorRecord* record, find_tensor(state, tensor));
  NWC_TRY(check_output_dtype(dtype));
  NWC_TRY(check_float_tensor(*record));
  if (row_begin <= row_end && row_end <= record->rows()) return record;
  return invalid_argument(
      str_cat("rows ", row_begin, " to ", row_end, " of tensor '", record->name, "', which has ", record->rows()));
}

/// All arguments have been checked.
Status decode_rows(nwc_decoder& d, uint32_t tensor, uint64_t row_begin, uint64_t row_end, nwc_dtype dtype,
                   const Progress& progress, void* out, uint64_t size_bytes) {
  if (size_bytes == 0) return {};
  DecodeRequest request;
  request.tensor = tensor;
  request.row_begin = row_begin;
  request.row_end = row_end;
  request.dtype = static_cast<Dtype>(dtype);
  request.out = MutableBytes(static_cast<uint8_t*>(out), static_cast<size_t>(size_bytes));
  request.check_crc = d.check_crc;
  request.progress = progress;
  return d.decoder->decode(request);
}

}  // namespace

Status check_backend(const BackendChoice& choice) {
  if (choice.backend > NWC_BACKEND_VULKAN)
    return invalid_argument(str_cat("backend ", choice.backend, " does not exist"));
  if (choice.device_index < 0)
    return invalid_argument(str_cat("device_index ", choice.device_index, " is negative: 0 takes the best device"));
  if (choice.vulkan == nullptr) return {};
  if (choice.backend == NWC_BACKEND_CPU) return invalid_argument("the CPU uses no nwc_vulkan_objects");
  if (choice.device_index != 0 || !choice.device_name.empty() || choice.validation)
    return invalid_argument("nwc_vulkan_objects are a device already: device_index, device_name and validation are 0");
  return {};
}

Result<std::unique_ptr<Decoder>> create_decoder(const NwcFile& file, Runner& runner, const BackendChoice& choice,
                                                const Logger& log) {
  const Backend backend = choice.backend == NWC_BACKEND_VULKAN ? Backend::kVulkan
                          : choice.backend == NWC_BACKEND_AUTO ? Backend::kAuto
                                                               : Backend::kCpu;
  NWC_ASSIGN_OR_RETURN(const VulkanOptions options, vulkan_options(choice));
  return nwc::create_decoder(backend, file, runner, options, log);
}

}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_vulkan_device_count(uint32_t* out_count) {
  if (out_count == nullptr) return NWC_STATUS_INVALID_ARGUMENT;
  return make(nullptr, [&]() -> Status {
    *out_count = static_cast<uint32_t>(list_vulkan_devices().size());
    return {};
  });
}

nwc_status nwc_vulkan_device(uint32_t index, nwc_device_info* out_info) {
  return make(nullptr, [&]() -> Status {
    const std::vector<VulkanDeviceInfo> devices = list_vulkan_devices();
    if (index >= devices.size()) return Status(StatusCode::kNotFound, str_cat("device ", index));
    const VulkanDeviceInfo& device = devices[index];
    const auto copy = [](const std::string& from, auto& to) {
      std::memcpy(to, from.c_str(), std::min(from.size(), sizeof to - 1));
    };
    nwc_device_info info{};
    info.type = static_cast<nwc_device_type>(device.type);
    info.usable = device.usable ? 1 : 0;
    info.device_index = device.index + 1;
    copy(device.name, info.name);
    copy(device.detail, info.detail);
    info.memory_bytes = device.memory_bytes;
    return write_struct(info, "nwc_device_info", out_info);
  });
}

nwc_status nwc_decoder_create(const nwc_model* model, const nwc_decoder_params* params, const nwc_error_detail* error,
                              nwc_decoder** out_decoder) {
  return make(error, [&]() -> Status {
    if (model == nullptr) return null_argument("model");
    if (out_decoder == nullptr) return null_argument("out_decoder");
    nwc_decoder_params p;
    NWC_TRY(read_struct(params, "nwc_decoder_params", &p));
    const BackendChoice choice = backend_of(p);
    NWC_TRY(check_backend(choice));
    auto d = std::make_unique<nwc_decoder>();
    d->state = model->state;
    d->log = {p.log, p.log_user};
    d->check_crc = p.skip_checksums == 0;
    NWC_ASSIGN_OR_RETURN(d->runner, create_runner(p.runner, p.num_threads));
    NWC_ASSIGN_OR_RETURN(d->decoder, create_decoder(d->state->file(), *d->runner, choice, d->log.logger()));
    *out_decoder = d.release();
    return {};
  });
}

void nwc_decoder_destroy(nwc_decoder* decoder) { delete decoder; }

const char* nwc_decoder_last_error(const nwc_decoder* decoder) {
  return decoder == nullptr ? "" : decoder->errors.get();
}

const char* nwc_decoder_name(const nwc_decoder* decoder) {
  return decoder == nullptr ? "" : decoder->decoder->name().c_str();
}

nwc_backend nwc_decoder_backend(const nwc_decoder* decoder) {
  return decoder != nullptr && decoder->decoder->on_device() != nullptr ? NWC_BACKEND_VULKAN : NWC_BACKEND_CPU;
}

nwc_status nwc_decoder_decode_tensor(nwc_decoder* decoder, uint32_t tensor, nwc_dtype dtype,
                                     nwc_progress_callback progress, void* progress_user, void* out_data,
                                     size_t size_bytes) {
  return call(decoder, [&](nwc_decoder& d) -> Status {
    NWC_ASSIGN_OR_RETURN(const TensorRecord* record, find_tensor(*d.state, tensor));
    NWC_TRY(check_output_dtype(dtype));
    NWC_TRY(check_float_tensor(*record));
    const uint64_t need = record->num_elements() * nwc_dtype_size(dtype);
    NWC_TRY(check_out_buffer(*record, dtype, need, out_data, size_bytes));
    const ProgressTarget target{progress, progress_user};
    return decode_rows(d, tensor, 0, record->rows(), dtype, target.progress(), out_data, need);
  });
}

nwc_status nwc_decoder_decode_rows(nwc_decoder* decoder, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                   nwc_dtype dtype, nwc_progress_callback progress, void* progress_user, void* out_data,
                                   size_t size_bytes) {
  return call(decoder, [&](nwc_decoder& d) -> Status {
    NWC_ASSIGN_OR_RETURN(const TensorRecord* record, find_rows(*d.state, tensor, row_begin, row_end, dtype));
    const uint64_t need = (row_end - row_begin) * record->cols() * nwc_dtype_size(dtype);
    NWC_TRY(check_out_buffer(*record, dtype, need, out_data, size_bytes));
    const ProgressTarget target{progress, progress_user};
    return decode_rows(d, tensor, row_begin, row_end, dtype, target.progress(), out_data, need);
  });
}

nwc_status nwc_decoder_decode_layer(nwc_decoder* decoder, uint32_t layer, nwc_dtype dtype,
                                    nwc_progress_callback progress, void* progress_user, void* out_data,
                                    size_t size_bytes, uint64_t* out_offsets) {
  return call(decoder, [&](nwc_decoder& d) -> Status {
    NWC_ASSIGN_OR_RETURN(const Layer* l, find_layer(*d.state, layer));
    NWC_TRY(check_output_dtype(dtype));
    const std::vector<TensorRecord>& tensors = d.state->file().tensors();
    const uint32_t element_bytes = static_cast<uint32_t>(nwc_dtype_size(dtype));
    const uint64_t need_layer = decoded_layer_bytes(*d.state, *l, element_bytes);
    if (size_bytes < need_layer)
      return Status(StatusCode::kBufferTooSmall,
                    str_cat("layer ", layer, " needs ", need_layer, " bytes, the buffer has ", size_bytes));
    const ProgressTarget target{progress, progress_user};
    const Progress report = target.progress();
    uint64_t offset = 0;
    for (uint32_t i = 0; i < l->num_tensors; ++i) {
      const TensorRecord& record = tensors[l->first_tensor + i];
      if (!report.report(i, l->num_tensors))
        return Status(StatusCode::kCancelled, "cancelled by the progress callback");
      const uint64_t need = record.num_elements() * element_bytes;
      NWC_TRY(check_float_tensor(record));
      NWC_TRY(check_out_buffer(record, dtype, need, out_data, size_bytes));
      if (need != 0) {
        NWC_TRY(decode_rows(d, l->first_tensor + i, 0, record.rows(), dtype, {},
                            static_cast<uint8_t*>(out_data) + offset, need));
      }
      if (out_offsets != nullptr) out_offsets[i] = offset;
      offset += align_up(need, NWC_LAYER_ALIGNMENT);
    }
    if (!report.report(l->num_tensors, l->num_tensors))
      return Status(StatusCode::kCancelled, "cancelled by the progress callback");
    return {};
  });
}

nwc_status nwc_decoder_decode_to_buffers(nwc_decoder* decoder, const nwc_buffer_rows* rows, size_t num_rows,
                                         nwc_progress_callback progress, void* progress_user) {
  return call(decoder, [&](nwc_decoder& d) -> Status {
    if (rows == nullptr && num_rows != 0) return null_argument("rows");
    std::vector<OwnersBufferRequest> requests;
    for (const nwc_buffer_rows& r : std::span(rows, num_rows)) {
      NWC_TRY(find_rows(*d.state, r.tensor, r.row_begin, r.row_end, r.dtype));
      if (r.row_begin == r.row_end) continue;
      requests.push_back({r.tensor, r.row_begin, r.row_end, static_cast<Dtype>(r.dtype), r.buffer, r.buffer_bytes,
                          r.offset, d.check_crc});
    }
    const ProgressTarget target{progress, progress_user};
    return d.decoder->decode_to_buffers(requests, target.progress());
  });
}
