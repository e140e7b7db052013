#include "runtime/decoder/raw_tensor.h"

#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

float load_float(Dtype dtype, const uint8_t* p) {
  switch (dtype) {
    case Dtype::kF16: return f16_to_f32(load_le<uint16_t>(p));
    case Dtype::kBf16: return bf16_to_f32(load_le<uint16_t>(p));
    case Dtype::kF64: return static_cast<float>(load_le<double>(p));
    default: return load_le<float>(p);
  }
}

void store_float(Dtype dtype, float v, uint8_t* p) {
  switch (dtype) {
    case Dtype::kF16: return store_le<uint16_t>(p, f32_to_f16(v));
    case Dtype::kBf16: return store_le<uint16_t>(p, f32_to_bf16(v));
    default: return store_le<float>(p, v);
  }
}

}  // namespace

Status check_request(const NwcFile& file, const DecodeRequest& request) {
  if (request.tensor >= file.tensors().size()) {
    return invalid_argument(str_cat("tensor ", request.tensor, " of ", file.tensors().size()));
  }
  const TensorRecord& record = file.tensors()[request.tensor];
  if (request.row_begin > request.row_end || request.row_end > record.rows()) {
    return invalid_argument(
        str_cat(record.name, ": rows ", request.row_begin, " to ", request.row_end, " of ", record.rows()));
  }
  if (request.dtype != Dtype::kF32 && request.dtype != Dtype::kF16 && request.dtype != Dtype::kBf16) {
    return invalid_argument(str_cat(record.name, ": the output must be f32, f16 or bf16"));
  }
  // Cannot overflow: the elements of a tensor are limited to 2^40.
  const uint64_t need = (request.row_end - request.row_begin) * record.cols() * dtype_size(request.dtype);
  if (request.out.size() < need) {
    return Status(StatusCode::kBufferTooSmall,
                  str_cat(record.name, ": needs ", need, " bytes, the buffer has ", request.out.size()));
  }
  return {};
}

Status decode_raw_rows(const NwcFile& file, const DecodeRequest& request) {
  const TensorRecord& record = file.tensors()[request.tensor];
  if (!dtype_is_float(record.dtype)) {
    return unsupported(str_cat(record.name, " holds ", dtype_name(record.dtype), ", which is no float type"));
  }
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes bytes, file.load_raw(request.tensor, request.check_crc, &storage));
  const size_t from_size = dtype_size(record.dtype);
  const size_t to_size = dtype_size(request.dtype);
  const size_t count = static_cast<size_t>((request.row_end - request.row_begin) * record.cols());
  const uint8_t* from = bytes.data() + static_cast<size_t>(request.row_begin * record.cols()) * from_size;
  if (record.dtype == request.dtype) {
    if (count != 0) std::memcpy(request.out.data(), from, count * from_size);
    return {};
  }
  for (size_t i = 0; i < count; ++i) {
    store_float(request.dtype, load_float(record.dtype, from + i * from_size), request.out.data() + i * to_size);
  }
  return {};
}

}  // namespace nwc
