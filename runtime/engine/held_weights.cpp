#include "runtime/engine/held_weights.h"

#include <algorithm>

#include "runtime/codec/device_form.h"

namespace nwc {
namespace {

struct BothMatrices {
  HeldMatrix q8, packed;
};

Result<BothMatrices> hold(const NwcFile& file, const IntegerForms& forms, size_t tensor, bool on_device,
                          bool check_crc) {
  const TensorRecord& record = file.tensors()[tensor];
  HeldMatrix held;
  held.rows = static_cast<uint32_t>(record.rows());
  held.cols = static_cast<uint32_t>(record.cols());
  held.integers = record.storage == Storage::kCoded && record.cols() <= kMaxIntegerCols;
  if (held.integers) {
    NWC_ASSIGN_OR_RETURN(IntegerForms::Both both, forms.choose_both(tensor, check_crc));
    const auto as = [&](IntegerForm form) {
      held.bytes = on_device ? DeviceForm(form).bytes : form.bytes;
      held.form = std::move(form);
      return held;
    };
    return BothMatrices{as(std::move(both.q8)), as(std::move(both.packed))};
  }
  const bool short_float =
      record.storage != Storage::kCoded && (record.dtype == Dtype::kF16 || record.dtype == Dtype::kBf16);
  if (short_float) held.dtype = record.dtype;
  held.bytes = align_up(record.num_elements() * dtype_size(held.dtype), 64);
  return BothMatrices{held, held};
}

}  // namespace

bool HeldWeights::any_that(bool shrinks) const {
  const auto does = [&](const HeldMatrix& m) { return m.integers && !m.form.requantized && m.form.shrinks == shrinks; };
  for (const Layer& layer : layers) {
    if (std::any_of(layer.matrices.begin(), layer.matrices.end(), does)) return true;
    if (std::any_of(layer.experts.begin(), layer.experts.end(), does)) return true;
  }
  return does(embedding) || does(head);
}

uint64_t HeldWeights::max_layer_bytes() const {
  uint64_t most = 0;
  for (const Layer& layer : layers) most = std::max(most, layer.bytes);
  return most;
}

uint64_t HeldWeights::max_expert_bytes() const {
  uint64_t most = 0;
  for (const Layer& layer : layers) most = std::max(most, layer.expert_bytes);
  return most;
}

uint64_t HeldWeights::bytes() const {
  uint64_t sum = embedding.bytes + head.bytes;
  for (const Layer& layer : layers) {
    sum += layer.bytes;
    for (const HeldMatrix& matrix : layer.experts) sum += matrix.bytes;
  }
  return sum;
}

namespace {

/// Of a layer's experts, those that a token multiplies by.
double share_of_experts(const ModelLayout& layout, size_t layer) {
  const ExpertSpec& experts = layout.block(static_cast<uint32_t>(layer)).experts;
  return experts.num_experts == 0 ? 0 : static_cast<double>(experts.per_token) / experts.num_experts;
}

}  // namespace

double HeldWeights::product_seconds(const ModelLayout& layout, const IntegerRates& rates) const {
  const auto of = [&](const HeldMatrix& m) { return m.integers ? nwc::product_seconds(m.form, rates) : 0.0; };
  double seconds = of(output(layout));
  for (size_t l = 0; l < layers.size(); ++l) {
    double of_experts = 0;
    for (const HeldMatrix& matrix : layers[l].matrices) seconds += of(matrix);
    for (const HeldMatrix& matrix : layers[l].experts) of_experts += of(matrix);
    seconds += share_of_experts(layout, l) * of_experts;
  }
  return seconds;
}

uint64_t HeldWeights::multiplied_weights(const ModelLayout& layout) const {
  uint64_t weights = uint64_t{layout.model.vocab_size} * layout.model.hidden_size;
  for (uint32_t l = 0; l < layout.layers.size(); ++l)
    weights += layout.layers[l].elements + layout.layers[l].expert_elements * layout.block(l).experts.per_token;
  return std::max<uint64_t>(1, weights);
}

double HeldWeights::bytes_per_weight(const ModelLayout& layout) const {
  double bytes = static_cast<double>(output(layout).bytes);
  for (size_t l = 0; l < layers.size(); ++l) {
    double of_experts = 0;
    for (const HeldMatrix& matrix : layers[l].experts) of_experts += static_cast<double>(matrix.bytes);
    bytes += static_cast<double>(layers[l].bytes) + share_of_experts(layout, l) * of_experts;
  }
  return bytes / static_cast<double>(multiplied_weights(layout));
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
    to.expert_bytes = layer.expert_elements * size;
    for (const PlacedMatrix& m : layer.expert_matrices)
      to.experts.push_back({false, dtype, {}, m.rows, m.cols, m.offset * size, uint64_t{m.rows} * m.cols * size});
  }
  const ModelRecord& model = layout.model;
  if (!layout.has_embedding()) return held;
  held.embedding = {
      false, dtype, {}, model.vocab_size, model.hidden_size, 0, uint64_t{model.vocab_size} * model.hidden_size * size};
  if (!model.tied_embeddings) held.head = held.embedding;
  return held;
}

const char* why_no_integers(const NwcFile& file, IntegerWeights which) {
  if (!file.codec()) return "nothing is coded";
  return which == IntegerWeights::kAuto ? why_not_integers(*file.codec()) : nullptr;
}

Result<HeldForms> hold_integers(const NwcFile& file, const ModelLayout& layout, bool on_device, bool check_crc) {
  HeldForms held;
  held.q8.which = IntegerWeights::kQ8;
  held.packed.which = IntegerWeights::kPacked;
  held.q8.on_device = held.packed.on_device = on_device;
  held.q8.requantized = held.packed.requantized = why_not_integers(*file.codec()) != nullptr;
  const IntegerForms forms(file);
  // Side information lies all over the file: the disk gives it in one go if it knows of all of it.
  for (const size_t tensor : all_tensors(layout)) {
    const TensorRecord& record = file.tensors()[tensor];
    if (record.storage == Storage::kCoded)
      file.reader().will_read(file.data_offset() + record.offset, record.side_size + 8 * tile_grid(record).num_tiles());
  }
  const auto place = [](HeldMatrix matrix, HeldWeights::Layer* to) {
    matrix.offset = to->bytes;
    to->bytes += matrix.bytes;
    to->matrices.push_back(std::move(matrix));
  };
  const auto place_expert = [](HeldMatrix matrix, bool first, HeldWeights::Layer* to) {
    matrix.offset = first ? 0 : to->experts.back().offset + to->experts.back().bytes;
    to->expert_bytes = std::max(to->expert_bytes, matrix.offset + matrix.bytes);
    to->experts.push_back(std::move(matrix));
  };
  for (const LayerLayout& layer : layout.layers) {
    held.q8.layers.emplace_back();
    held.packed.layers.emplace_back();
    for (const PlacedMatrix& m : layer.matrices) {
      NWC_ASSIGN_OR_RETURN(BothMatrices both, hold(file, forms, m.tensor, on_device, check_crc));
      place(std::move(both.q8), &held.q8.layers.back());
      place(std::move(both.packed), &held.packed.layers.back());
    }
    for (size_t i = 0; i < layer.expert_matrices.size(); ++i) {
      const PlacedMatrix& m = layer.expert_matrices[i];
      NWC_ASSIGN_OR_RETURN(BothMatrices both, hold(file, forms, m.tensor, on_device, check_crc));
      const bool first = i % layer.per_expert == 0;
      place_expert(std::move(both.q8), first, &held.q8.layers.back());
      place_expert(std::move(both.packed), first, &held.packed.layers.back());
    }
  }
  const auto hold_end = [&](size_t tensor, HeldMatrix* q8, HeldMatrix* packed) -> Status {
    NWC_ASSIGN_OR_RETURN(BothMatrices both, hold(file, forms, tensor, on_device, check_crc));
    *q8 = std::move(both.q8);
    *packed = std::move(both.packed);
    return {};
  };
  if (layout.has_embedding()) NWC_TRY(hold_end(layout.embedding, &held.q8.embedding, &held.packed.embedding));
  if (layout.separate_head()) NWC_TRY(hold_end(layout.head, &held.q8.head, &held.packed.head));
  return held;
}

}  // namespace nwc
