#include "trainer/inspect/tensor_output.h"

#include <algorithm>

namespace nwc {
namespace {

constexpr uint64_t kBandWeights = 16u << 20;      ///< between two reports of progress
constexpr uint64_t kBandWeightsToUse = 4u << 20;  ///< in memory at a time

// Whole tile rows, so that no tile is decoded twice.
uint64_t band_rows(const TensorRecord& record, uint64_t weights) {
  const uint64_t unit = std::max<uint64_t>(record.tile_rows, 1);
  return unit * std::max<uint64_t>(1, weights / std::max<uint64_t>(1, unit * record.cols()));
}

}  // namespace

Status check_output_dtype(Dtype dtype) {
  if (dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16) return {};
  return invalid_argument(std::string("cannot decode to ") + dtype_name(dtype) + "; choose F32, F16 or BF16");
}

Status TensorOutput::report(uint64_t weights) {
  done_ += weights;
  return progress_.report(done_, total_) ? Status() : Status(StatusCode::kCancelled, "cancelled while decoding");
}

Status TensorOutput::decode_rows(size_t tensor, Dtype dtype, uint64_t row_begin, uint64_t row_end, MutableBytes out) {
  DecodeRequest request;
  request.tensor = tensor;
  request.row_begin = row_begin;
  request.row_end = row_end;
  request.dtype = dtype;
  request.out = out;
  NWC_TRY(decoder_.decode(request));
  return report((row_end - row_begin) * file_.tensors()[tensor].cols());
}

Status TensorOutput::decode(size_t tensor, Dtype dtype, MutableBytes out) {
  const TensorRecord& record = file_.tensors()[tensor];
  const bool as_stored = record.storage != Storage::kCoded && dtype == record.dtype;
  const uint64_t size = as_stored ? record.raw_bytes() : record.num_elements() * dtype_size(dtype);
  if (out.size() != size) {
    return invalid_argument("tensor \"" + record.name + "\" has " + std::to_string(size) + " bytes, not " +
                            std::to_string(out.size()));
  }
  if (as_stored) {
    std::vector<uint8_t> storage;
    NWC_ASSIGN_OR_RETURN(const Bytes raw, file_.load_raw(tensor, true, &storage));
    std::copy(raw.begin(), raw.end(), out.begin());
    return report(record.num_elements());
  }
  const uint64_t n = record.cols(), band = band_rows(record, kBandWeights);
  const size_t row_bytes = static_cast<size_t>(n) * dtype_size(dtype);
  for (uint64_t row = 0; row < record.rows() && n > 0; row += band) {
    const uint64_t end = std::min(record.rows(), row + band);
    NWC_TRY(decode_rows(tensor, dtype, row, end, out.subspan(row * row_bytes, (end - row) * row_bytes)));
  }
  return {};
}

Status TensorOutput::decode(size_t tensor, Dtype dtype, std::vector<uint8_t>* bytes) {
  const TensorRecord& record = file_.tensors()[tensor];
  const bool as_stored = record.storage != Storage::kCoded && dtype == record.dtype;
  bytes->resize(static_cast<size_t>(as_stored ? record.raw_bytes() : record.num_elements() * dtype_size(dtype)));
  return decode(tensor, dtype, MutableBytes(*bytes));
}

Status TensorOutput::decode_bands(size_t tensor, Dtype dtype, const std::function<Status(Bytes band)>& use) {
  const TensorRecord& record = file_.tensors()[tensor];
  const uint64_t n = record.cols(), band = band_rows(record, kBandWeightsToUse);
  std::vector<uint8_t> bytes;
  for (uint64_t row = 0; row < record.rows() && n > 0; row += band) {
    const uint64_t end = std::min(record.rows(), row + band);
    bytes.resize(static_cast<size_t>((end - row) * n) * dtype_size(dtype));
    NWC_TRY(decode_rows(tensor, dtype, row, end, bytes));
    NWC_TRY(use(bytes));
  }
  return {};
}

}  // namespace nwc
