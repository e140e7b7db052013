#include "runtime/engine/layer_stream.h"

#include <algorithm>

#include "runtime/base/exceptions.h"

namespace nwc {
namespace {

/// Of a piece, for each worker: a few milliseconds of work, and tiles enough to share.
constexpr uint64_t kPieceWeightsPerWorker = 1u << 18;

}  // namespace

uint64_t CheckedRows::band_rows(size_t tensor) const {
  const TensorRecord& record = file_.tensors()[tensor];
  return record.storage == Storage::kCoded ? record.tile_rows : std::max<uint64_t>(1, record.rows());
}

bool CheckedRows::any_unchecked(size_t tensor, uint64_t begin, uint64_t end) {
  const uint64_t band = band_rows(tensor);
  std::vector<uint8_t>& checked = checked_[tensor];
  if (checked.empty()) checked.resize(static_cast<size_t>(ceil_div(file_.tensors()[tensor].rows(), band)));
  for (uint64_t b = begin / band; b * band < end; ++b) {
    if (checked[static_cast<size_t>(b)] == 0) return true;
  }
  return false;
}

void CheckedRows::mark(size_t tensor, uint64_t begin, uint64_t end) {
  const uint64_t band = band_rows(tensor);
  for (uint64_t b = begin / band; b * band < end; ++b) checked_[tensor][static_cast<size_t>(b)] = 1;
}

WeightSource::WeightSource(const NwcFile& file, Decoder& decoder, const ModelLayout& layout, const HeldWeights& held,
                           bool check_crc, uint32_t num_workers)
    : decoder_(decoder),
      file_(file),
      layout_(layout),
      held_(held),
      check_crc_(check_crc),
      piece_weights_(num_workers * kPieceWeightsPerWorker),
      checked_(file) {}

Status WeightSource::decode(size_t tensor, uint64_t begin, uint64_t end, Dtype dtype, MutableBytes out) {
  const bool check = check_crc_ && checked_.any_unchecked(tensor, begin, end);
  DecodeRequest request;
  request.tensor = tensor;
  request.row_begin = begin;
  request.row_end = end;
  request.dtype = dtype;
  request.out = out;
  request.check_crc = check;
  NWC_TRY(decoder_.decode(request));
  if (check) checked_.mark(tensor, begin, end);
  return {};
}

Status WeightSource::decode_held(size_t tensor, const HeldMatrix& held, uint64_t begin, uint64_t end,
                                 MutableBytes out) {
  if (!held.integers) {
    const uint64_t row_bytes = file_.tensors()[tensor].cols() * dtype_size(held.dtype);
    const size_t at = static_cast<size_t>(begin * row_bytes), size = static_cast<size_t>((end - begin) * row_bytes);
    return decode(tensor, begin, end, held.dtype, out.subspan(at, size));
  }
  const bool check = check_crc_ && checked_.any_unchecked(tensor, begin, end);
  const IntegerRequest request{tensor, &held.form, begin, end, out, check};
  NWC_TRY(decoder_.decode_integers({&request, 1}));
  if (check) checked_.mark(tensor, begin, end);
  return {};
}

void WeightSource::will_decode(size_t tensor) const {
  const TensorRecord& record = file_.tensors()[tensor];
  file_.reader().will_read(file_.data_offset() + record.offset, record.size);
}

void WeightSource::will_decode_layer(uint32_t layer) const {
  if (layer >= layout_.layers.size()) return;
  for (const PlacedMatrix& m : layout_.layers[layer].matrices) will_decode(m.tensor);
}

Status WeightSource::decode_matrix(size_t tensor, const HeldMatrix& held, MutableBytes out) {
  return decode_held(tensor, held, 0, file_.tensors()[tensor].rows(), out);
}

Status WeightSource::decode_rows(size_t tensor, uint64_t begin, uint64_t end, MutableBytes out) {
  return decode(tensor, begin, end, held_.row_dtype(), out);
}

// Integers are decoded later, together with those of other matrices.
Status WeightSource::decode_floats(uint32_t layer, const PlacedMatrix& m, MutableBytes out,
                                   std::vector<IntegerRequest>* integers) {
  const HeldMatrix& held = held_.matrix(layout_, layer, m);
  const MutableBytes to = out.subspan(held.offset, held.bytes);
  if (!held.integers) return decode_matrix(m.tensor, held, to);
  const bool check = check_crc_ && checked_.any_unchecked(m.tensor, 0, m.rows);
  integers->push_back({m.tensor, &held.form, 0, m.rows, to, check});
  return {};
}

Status WeightSource::decode_integers(std::span<const IntegerRequest> requests) {
  if (requests.empty()) return {};
  NWC_TRY(decoder_.decode_integers(requests));
  for (const IntegerRequest& r : requests) {
    if (r.check_crc) checked_.mark(r.tensor, r.row_begin, r.row_end);
  }
  return {};
}

Status WeightSource::decode_layer(uint32_t layer, MutableBytes out) {
  std::vector<IntegerRequest> integers;
  for (const PlacedMatrix& m : layout_.layers[layer].matrices) NWC_TRY(decode_floats(layer, m, out, &integers));
  return decode_integers(integers);
}

Status WeightSource::decode_experts(uint32_t layer, std::span<const ExpertRequest> requests) {
  std::vector<IntegerRequest> integers;
  for (const ExpertRequest& request : requests) {
    for (const PlacedMatrix& m : layout_.layers[layer].expert(request.expert))
      NWC_TRY(decode_floats(layer, m, request.out, &integers));
  }
  return decode_integers(integers);
}

Result<bool> WeightSource::decode_layer_piece(uint32_t layer, uint32_t piece, MutableBytes out) {
  if (piece == 0) will_decode_layer(layer + 1);
  const std::vector<PlacedMatrix>& matrices = layout_.layers[layer].matrices;
  for (const PlacedMatrix& m : matrices) {
    // What shares one checksum is one piece.
    const uint64_t most = piece_rows(piece_weights_, m.cols, checked_.band_rows(m.tensor));
    const uint64_t pieces = ceil_div(m.rows, most);
    if (piece >= pieces) {
      piece -= static_cast<uint32_t>(pieces);
      continue;
    }
    const uint64_t begin = piece * most, end = std::min<uint64_t>(m.rows, begin + most);
    const HeldMatrix& held = held_.matrix(layout_, layer, m);
    NWC_TRY(decode_held(m.tensor, held, begin, end, out.subspan(held.offset, held.bytes)));
    return &m == &matrices.back() && end == m.rows;
  }
  return true;
}

Status WeightSource::decode_vectors(std::span<const VectorPlace> vectors, float* out) {
  for (const VectorPlace& vector : vectors) {
    float* to = out + vector.at;
    const MutableBytes bytes(reinterpret_cast<uint8_t*>(to), size_t{vector.size} * sizeof(float));
    NWC_TRY(decode(vector.tensor, 0, file_.tensors()[vector.tensor].rows(), Dtype::kF32, bytes));
    if (!vector.one_plus) continue;
    for (uint32_t i = 0; i < vector.size; ++i) to[i] += 1;
  }
  return {};
}

LayerStream::LayerStream(uint32_t first, uint32_t end, DecodePiece decode)
    : first_(first), end_(end), decode_(std::move(decode)), next_layer_(first) {}

Result<std::unique_ptr<LayerStream>> LayerStream::start(uint32_t first, uint32_t end, DecodePiece decode) {
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
    changed_.wait(lock, [this] { return stop_ || (running_ && !failed_ && !slots_[fill_].full); });
    if (stop_) return;
    const uint32_t filled = fill_, layer = next_layer_, piece = next_piece_, start = starts_;
    busy_ = true;
    lock.unlock();
    Status status;
    bool last = true;
    const auto decode = [&] {
      Result<bool> done = decode_(layer, piece, filled);
      if (done.ok()) last = *done;
      status = std::move(done).status();
    };
    // Out of memory in the decoder must not end the process. That text is short enough to need no memory itself.
    guarded(decode, [&](StatusCode code, const char* text) {
      status = Status(code, code == StatusCode::kOutOfMemory ? "out of memory" : text);
    });
    lock.lock();
    busy_ = false;
    if (start == starts_) {
      failed_ = !status.ok();
      next_piece_ = last || failed_ ? 0 : piece + 1;
      if (next_piece_ == 0) {
        slots_[filled] = {true, layer, std::move(status)};
        fill_ ^= 1u;
        next_layer_ = layer + 1 == end_ ? first_ : layer + 1;
      }
    }
    changed_.notify_all();
  }
}

void LayerStream::resume() {
  std::lock_guard lock(mutex_);
  if (failed_) {
    // The error is of an earlier call, which did not wait for that layer. What caused it may be gone.
    fill_ ^= 1u;
    next_layer_ = slots_[fill_].layer;
    slots_[fill_] = Slot();
    failed_ = false;
  }
  running_ = true;
  changed_.notify_all();
}

void LayerStream::pause() {
  std::unique_lock lock(mutex_);
  running_ = false;
  changed_.wait(lock, [this] { return !busy_; });
}

void LayerStream::restart_at(uint32_t layer) {
  for (Slot& slot : slots_) slot = Slot();
  fill_ = drain_;
  next_layer_ = layer;
  next_piece_ = 0;
  failed_ = false;
  ++starts_;
  changed_.notify_all();
}

Result<uint32_t> LayerStream::acquire(uint32_t layer) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return slots_[drain_].full; });
    Slot& slot = slots_[drain_];
    if (slot.layer == layer && slot.status.ok()) return drain_;
    // The other slot is out of order, too, now.
    const bool wanted = slot.layer == layer;
    Status status = std::move(slot.status);
    restart_at(wanted ? first_ : layer);
    if (wanted) return status;
  }
}

void LayerStream::release() {
  std::lock_guard lock(mutex_);
  slots_[drain_].full = false;
  drain_ ^= 1u;
  changed_.notify_all();
}

}  // namespace nwc
