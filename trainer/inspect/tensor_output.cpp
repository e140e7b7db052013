#include "trainer/inspect/tensor_output.h"

#include <algorithm>

namespace nwc {
namespace {

constexpr uint64_t kBandWeights = 16u << 20;  ///< between two reports of progress

}  // namespace

Status check_output_dtype(Dtype dtype) {
  if (dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16) return {};
  return invalid_argument(std::string("cannot decode to ") + dtype_name(dtype) + "; choose F32, F16 or BF16");
}

Status TensorOutput::decode(size_t tensor, Dtype dtype, std::vector<uint8_t>* bytes) {
  const auto report = [this](uint64_t weights) -> Status {
    done_ += weights;
    return progress_.report(done_, total_) ? Status() : Status(StatusCode::kCancelled, "cancelled while decoding");
  };
  const TensorRecord& record = file_.tensors()[tensor];
  if (record.storage != Storage::kCoded && dtype == record.dtype) {
    std::vector<uint8_t> storage;
    NWC_ASSIGN_OR_RETURN(const Bytes raw, file_.load_raw(tensor, true, &storage));
    bytes->assign(raw.begin(), raw.end());
    return report(record.num_elements());
  }
  bytes->resize(static_cast<size_t>(record.num_elements() * dtype_size(dtype)));
  const uint64_t m = record.rows(), n = record.cols();
  // Bands of whole tile rows: no tile is decoded twice.
  const uint64_t unit = std::max<uint64_t>(record.tile_rows, 1);
  const uint64_t band = unit * std::max<uint64_t>(1, kBandWeights / std::max<uint64_t>(1, unit * n));
  for (uint64_t row = 0; row < m && n > 0; row += band) {
    const uint64_t end = std::min(m, row + band);
    const size_t row_bytes = static_cast<size_t>(n) * dtype_size(dtype);
    DecodeRequest request;
    request.tensor = tensor;
    request.row_begin = row;
    request.row_end = end;
    request.dtype = dtype;
    request.out = MutableBytes(*bytes).subspan(row * row_bytes, (end - row) * row_bytes);
    NWC_TRY(decoder_.decode(request));
    NWC_TRY(report((end - row) * n));
  }
  return {};
}

}  // namespace nwc
