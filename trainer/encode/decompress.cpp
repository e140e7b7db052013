#include "trainer/encode/decompress.h"

#include <algorithm>

#include "trainer/data/safetensors.h"

namespace nwc {
namespace {

constexpr uint64_t kBandWeights = 16u << 20;  ///< between two reports of progress

/// The tensor in `dtype`, in bands of whole tile rows.
Status decode_bands(Decoder& decoder, size_t tensor, const TensorRecord& record, Dtype dtype, uint64_t done,
                    uint64_t total, const Progress& progress, std::vector<uint8_t>* bytes) {
  bytes->resize(static_cast<size_t>(record.num_elements() * dtype_size(dtype)));
  const uint64_t m = record.rows(), n = record.cols();
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
    NWC_TRY(decoder.decode(request));
    if (!progress.report(done + end * n, total)) return Status(StatusCode::kCancelled, "cancelled while decoding");
  }
  return {};
}

}  // namespace

Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress) {
  if (dtype && *dtype != Dtype::kF32 && *dtype != Dtype::kF16 && *dtype != Dtype::kBf16) {
    return invalid_argument(std::string("cannot decode to ") + dtype_name(*dtype) + "; choose F32, F16 or BF16");
  }
  std::vector<SafetensorsTensor> tensors;
  std::vector<uint64_t> done = {0};
  for (const TensorRecord& record : file.tensors()) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = record.name;
    t.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    t.shape = record.shape;
    done.push_back(done.back() + record.num_elements());
  }
  return write_safetensors(path, tensors, {{"format", "pt"}}, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    const TensorRecord& record = file.tensors()[i];
    if (record.storage == Storage::kCoded || tensors[i].dtype != record.dtype) {
      return decode_bands(decoder, i, record, tensors[i].dtype, done[i], done.back(), progress, bytes);
    }
    std::vector<uint8_t> storage;
    NWC_ASSIGN_OR_RETURN(const Bytes raw, file.load_raw(i, true, &storage));
    bytes->assign(raw.begin(), raw.end());
    if (!progress.report(done[i + 1], done.back())) return Status(StatusCode::kCancelled, "cancelled while decoding");
    return {};
  });
}

}  // namespace nwc
