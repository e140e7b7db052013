#include "runtime/engine/layer_stream.h"

#include <algorithm>

#include "runtime/base/exceptions.h"

namespace nwc {

WeightSource::WeightSource(const NwcFile& file, Decoder& decoder, const LlamaLayout& layout, Dtype dtype,
                           bool check_crc)
    : file_(file),
      decoder_(decoder),
      layout_(layout),
      dtype_(dtype),
      check_crc_(check_crc),
      checked_(file.tensors().size()) {}

uint64_t WeightSource::band_rows(size_t tensor) const {
  const TensorRecord& record = file_.tensors()[tensor];
  return record.storage == Storage::kCoded ? record.tile_rows : std::max<uint64_t>(1, record.rows());
}

Status WeightSource::decode(size_t tensor, uint64_t begin, uint64_t end, Dtype dtype, MutableBytes out) {
  std::lock_guard lock(mutex_);
  const uint64_t band = band_rows(tensor);
  std::vector<bool>& checked = checked_[tensor];
  bool check = false;
  if (check_crc_) {
    if (checked.empty()) checked.resize(static_cast<size_t>(ceil_div(file_.tensors()[tensor].rows(), band)));
    for (uint64_t b = begin / band; b * band < end; ++b) check = check || !checked[static_cast<size_t>(b)];
  }
  DecodeRequest request;
  request.tensor = tensor;
  request.row_begin = begin;
  request.row_end = end;
  request.dtype = dtype;
  request.out = out;
  request.check_crc = check;
  NWC_TRY(decoder_.decode(request));
  if (check) {
    for (uint64_t b = begin / band; b * band < end; ++b) checked[static_cast<size_t>(b)] = true;
  }
  return {};
}

Status WeightSource::decode_rows(size_t tensor, uint64_t begin, uint64_t end, MutableBytes out) {
  return decode(tensor, begin, end, dtype_, out);
}

Status WeightSource::decode_layer(uint32_t layer, MutableBytes out) {
  const uint32_t size = dtype_size(dtype_);
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    const size_t offset = static_cast<size_t>(layout_.matrix_offset(i) * size);
    const size_t bytes = static_cast<size_t>(layout_.matrix_rows(m) * layout_.matrix_cols(m) * size);
    NWC_TRY(decode(layout_.layers[layer].matrix[i], 0, layout_.matrix_rows(m), dtype_, out.subspan(offset, bytes)));
  }
  return {};
}

Status WeightSource::decode_norms(float* out) {
  const uint32_t n = layout_.model.hidden_size;
  const auto one = [&](size_t tensor) {
    const MutableBytes bytes(reinterpret_cast<uint8_t*>(out), size_t{n} * sizeof(float));
    out += n;
    return decode(tensor, 0, n, Dtype::kF32, bytes);
  };
  for (const LlamaLayer& layer : layout_.layers) {
    NWC_TRY(one(layer.attention_norm));
    NWC_TRY(one(layer.mlp_norm));
  }
  return one(layout_.final_norm);
}

LayerStream::LayerStream(uint32_t first, uint32_t end, DecodeLayer decode)
    : first_(first), end_(end), decode_(std::move(decode)), next_layer_(first) {}

Result<std::unique_ptr<LayerStream>> LayerStream::start(uint32_t first, uint32_t end, DecodeLayer decode) {
  std::unique_ptr<LayerStream> stream(new LayerStream(first, end, std::move(decode)));
  const bool started = guarded([&] { stream->thread_ = std::thread([s = stream.get()] { s->work(); }); },
                               [](StatusCode, const char*) {});
  if (!started) return Status(StatusCode::kOutOfMemory, "the system gives no thread to decode layers");
  return stream;
}

LayerStream::~LayerStream() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void LayerStream::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || (!failed_ && !slots_[fill_].full); });
    if (stop_) return;
    const uint32_t filled = fill_;
    const uint32_t layer = next_layer_;
    lock.unlock();
    Status status;
    // Out of memory in the decoder must not end the process. That text is short enough to need no memory itself.
    guarded([&] { status = decode_(layer, filled); },
            [&](StatusCode code, const char* text) {
              status = Status(code, code == StatusCode::kOutOfMemory ? "out of memory" : text);
            });
    lock.lock();
    slots_[filled].full = true;
    failed_ = !status.ok();
    slots_[filled].status = std::move(status);
    fill_ ^= 1u;
    next_layer_ = layer + 1 == end_ ? first_ : layer + 1;
    changed_.notify_all();
  }
}

Result<uint32_t> LayerStream::acquire() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return slots_[drain_].full; });
  if (slots_[drain_].status.ok()) return drain_;
  // The thread is waiting, and what lies in the other slot is out of order now.
  Status status = std::move(slots_[drain_].status);
  for (Slot& slot : slots_) {
    slot.full = false;
    slot.status = Status();
  }
  fill_ = drain_;
  next_layer_ = first_;
  failed_ = false;
  changed_.notify_all();
  return status;
}

void LayerStream::release() {
  std::lock_guard lock(mutex_);
  slots_[drain_].full = false;
  drain_ ^= 1u;
  changed_.notify_all();
}

}  // namespace nwc
