#include "runtime/engine/held_weights.h"

#include <algorithm>

#include "runtime/codec/device_form.h"

namespace nwc {
namespace {

Result<HeldMatrix> hold(const NwcFile& file, const IntegerForms& forms, size_t tensor, IntegerWeights which,
                        bool on_device, bool check_crc) {
  const TensorRecord& record = file.tensors()[tensor];
  HeldMatrix held;
  held.rows = static_cast<uint32_t>(record.rows());
  held.cols = static_cast<uint32_t>(record.cols());
  held.integers = record.storage == Storage::kCoded && record.cols() <= kMaxIntegerCols;
  if (held.integers) {
    NWC_ASSIGN_OR_RETURN(held.form, forms.choose(tensor, which, check_crc));
    held.bytes = on_device ? DeviceForm(held.form).bytes : held.form.bytes;
    return held;
  }
  const bool short_float =
      record.storage != Storage::kCoded && (record.dtype == Dtype::kF16 || record.dtype == Dtype::kBf16);
  if (short_float) held.dtype = record.dtype;
  held.bytes = align_up(record.num_elements() * dtype_size(held.dtype), 64);
  return held;
}

}  // namespace

bool HeldWeights::any_that(bool shrinks) const {
  const auto does = [&](const HeldMatrix& m) { return m.integers && m.form.shrinks == shrinks; };
  for (const Layer& layer : layers) {
    if (std::any_of(layer.matrices.begin(), layer.matrices.end(), does)) return true;
  }
  return does(embedding) || does(head);
}

uint64_t HeldWeights::max_layer_bytes() const {
  uint64_t most = 0;
  for (const Layer& layer : layers) most = std::max(most, layer.bytes);
  return most;
}

double HeldWeights::bytes_per_weight(const ModelLayout& layout) const {
  uint64_t bytes = output(layout).bytes, weights = uint64_t{layout.model.vocab_size} * layout.model.hidden_size;
  for (size_t l = 0; l < layers.size(); ++l) {
    bytes += layers[l].bytes;
    weights += layout.layers[l].elements;
  }
  return static_cast<double>(bytes) / static_cast<double>(std::max<uint64_t>(1, weights));
}

HeldWeights hold_floats(const ModelLayout& layout, Dtype dtype) {
  const uint64_t size = dtype_size(dtype);
  HeldWeights held;
  held.floats = dtype;
  for (const LayerLayout& layer : layout.layers) {
    HeldWeights::Layer& to = held.layers.emplace_back();
    to.bytes = layer.elements * size;
    for (const PlacedMatrix& m : layer.matrices)
      to.matrices.push_back({false, dtype, {}, m.rows, m.cols, m.offset * size, uint64_t{m.rows} * m.cols * size});
  }
  const ModelRecord& model = layout.model;
  held.embedding = {
      false, dtype, {}, model.vocab_size, model.hidden_size, 0, uint64_t{model.vocab_size} * model.hidden_size * size};
  if (!model.tied_embeddings) held.head = held.embedding;
  return held;
}

const char* why_no_integers(const NwcFile& file, IntegerWeights which, bool on_device) {
  if (!file.codec()) return "nothing is coded";
  return which == IntegerWeights::kAuto || on_device ? why_not_integers(*file.codec()) : nullptr;
}

Result<HeldWeights> hold_integers(const NwcFile& file, const ModelLayout& layout, IntegerWeights which, bool on_device,
                                  bool check_crc) {
  HeldWeights held;
  held.which = held_as(which);
  held.on_device = on_device;
  held.requantized = why_not_integers(*file.codec()) != nullptr;
  const IntegerForms forms(file);
  // Side information lies all over the file: the disk gives it in one go if it knows of all of it.
  for (const size_t tensor : all_tensors(layout)) {
    const TensorRecord& record = file.tensors()[tensor];
    if (record.storage == Storage::kCoded)
      file.reader().will_read(file.data_offset() + record.offset, record.side_size + 8 * tile_grid(record).num_tiles());
  }
  const auto hold_one = [&](size_t tensor) { return hold(file, forms, tensor, held.which, on_device, check_crc); };
  for (const LayerLayout& layer : layout.layers) {
    HeldWeights::Layer& to = held.layers.emplace_back();
    for (const PlacedMatrix& m : layer.matrices) {
      NWC_ASSIGN_OR_RETURN(HeldMatrix matrix, hold_one(m.tensor));
      matrix.offset = to.bytes;
      to.bytes += matrix.bytes;
      to.matrices.push_back(std::move(matrix));
    }
  }
  NWC_ASSIGN_OR_RETURN(held.embedding, hold_one(layout.embedding));
  if (!layout.model.tied_embeddings) {
    NWC_ASSIGN_OR_RETURN(held.head, hold_one(layout.head));
  }
  return held;
}

}  // namespace nwc
