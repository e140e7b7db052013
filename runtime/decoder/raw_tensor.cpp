#include "runtime/decoder/raw_tensor.h"

#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

void store_float(Dtype dtype, float v, uint8_t* p) {
  switch (dtype) {
    case Dtype::kF16: return store_le<uint16_t>(p, f32_to_f16(v));
    case Dtype::kBf16: return store_le<uint16_t>(p, f32_to_bf16(v));
    default: return store_le<float>(p, v);
  }
}

}  // namespace

Status check_rows(const NwcFile& file, size_t tensor, uint64_t row_begin, uint64_t row_end, Dtype dtype) {
  if (tensor >= file.tensors().size())
    return invalid_argument(str_cat("tensor ", tensor, " of ", file.tensors().size()));
  const TensorRecord& record = file.tensors()[tensor];
  if (row_begin > row_end || row_end > record.rows()) {
    return invalid_argument(str_cat(record.name, ": rows ", row_begin, " to ", row_end, " of ", record.rows()));
  }
  if (dtype != Dtype::kF32 && dtype != Dtype::kF16 && dtype != Dtype::kBf16) {
    return invalid_argument(str_cat(record.name, ": the output must be f32, f16 or bf16"));
  }
  return {};
}

Status check_request(const NwcFile& file, const DecodeRequest& request) {
  NWC_TRY(check_rows(file, request.tensor, request.row_begin, request.row_end, request.dtype));
  const TensorRecord& record = file.tensors()[request.tensor];
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
    return unsupported(
        str_cat(record.name, " holds ", dtype_name(record.dtype), ", which is not converted; its bytes can be read"));
  }
  const uint32_t from_size = dtype_size(record.dtype), to_size = dtype_size(request.dtype);
  const uint64_t begin = request.row_begin * record.cols() * from_size,
                 end = request.row_end * record.cols() * from_size;
  return file.read_raw(request.tensor, begin, end, request.check_crc, [&](uint64_t at, Bytes piece) {
    convert_floats(record.dtype, piece.data(), piece.size() / from_size, request.dtype,
                   request.out.data() + (at - begin) / from_size * to_size);
  });
}

void convert_floats(Dtype from_dtype, const uint8_t* from, size_t count, Dtype to_dtype, uint8_t* to) {
  const size_t from_size = dtype_size(from_dtype), to_size = dtype_size(to_dtype);
  if (from_dtype == to_dtype) {
    if (count != 0) std::memcpy(to, from, count * from_size);
    return;
  }
  for (size_t i = 0; i < count; ++i)
    store_float(to_dtype, load_float(from_dtype, from + i * from_size), to + i * to_size);
}

}  // namespace nwc
