#include "runtime/engine/weights_vulkan.h"

#include "runtime/engine/buffer.h"
#include "runtime/engine/memory_plan.h"

namespace nwc {

DeviceWeights::DeviceWeights(const ForwardInputs& inputs, DeviceDecoder& decoder, const LayerOps& ops)
    : file_(inputs.file),
      params_(inputs.params),
      layout_(inputs.layout),
      held_(*inputs.plan.held),
      decoder_(decoder),
      ops_(ops),
      checked_(file_) {}

uint64_t DeviceWeights::layer_bytes(uint32_t layer) const { return Buffer::rounded(held_.layers[layer].bytes); }

Status DeviceWeights::decode(Requests requests) {
  const auto unchecked = [this](size_t tensor, uint64_t begin, uint64_t end) {
    return params_.check_crc && checked_.any_unchecked(tensor, begin, end);
  };
  const auto rows = [this](size_t tensor) { return file_.tensors()[tensor].rows(); };
  for (DeviceDecodeRequest& r : requests.floats) r.check_crc = unchecked(r.tensor, r.row_begin, r.row_end);
  for (DeviceIntegerRequest& r : requests.integers) r.check_crc = unchecked(r.tensor, 0, rows(r.tensor));
  if (!requests.floats.empty()) NWC_TRY(decoder_.decode_to_device(requests.floats));
  if (!requests.integers.empty()) NWC_TRY(decoder_.integers_to_device(requests.integers));
  for (const DeviceDecodeRequest& r : requests.floats) {
    if (r.check_crc) checked_.mark(r.tensor, r.row_begin, r.row_end);
  }
  for (const DeviceIntegerRequest& r : requests.integers) {
    if (r.check_crc) checked_.mark(r.tensor, 0, rows(r.tensor));
  }
  return {};
}

void DeviceWeights::add(Requests* requests, size_t tensor, const HeldMatrix& held, const BufferView& out) const {
  const BufferView view(out.buffer, out.offset + held.offset, held.bytes);
  if (held.integers) {
    requests->integers.push_back({tensor, &held.form, view});
  } else {
    requests->floats.push_back({tensor, 0, file_.tensors()[tensor].rows(), held.dtype, view});
  }
}

Status DeviceWeights::decode_layer(uint32_t layer, const DeviceBuffer& out) {
  Requests requests;
  for (const PlacedMatrix& m : layout_.layers[layer].matrices)
    add(&requests, m.tensor, held_.matrix(layout_, layer, m), &out);
  return decode(std::move(requests));
}

Status DeviceWeights::decode_experts(uint32_t layer, std::span<const ExpertRequest> experts) {
  Requests requests;
  for (const ExpertRequest& request : experts) {
    for (const PlacedMatrix& m : layout_.layers[layer].expert(request.expert))
      add(&requests, m.tensor, held_.matrix(layout_, layer, m), request.out);
  }
  return decode(std::move(requests));
}

Status DeviceWeights::decode_whole(size_t tensor, const HeldMatrix& held, const DeviceBuffer& out) {
  Requests requests;
  add(&requests, tensor, held, &out);
  return decode(std::move(requests));
}

Status DeviceWeights::decode_embedding(const DeviceBuffer& out) {
  return decode_whole(layout_.embedding, held_.embedding, out);
}

Status DeviceWeights::decode_head(const DeviceBuffer& out) { return decode_whole(layout_.head, held_.head, out); }

Status DeviceWeights::decode_rows(size_t tensor, uint64_t begin, uint64_t end, const DeviceBuffer& out) {
  const uint64_t bytes = (end - begin) * file_.tensors()[tensor].cols() * dtype_size(float_type());
  Requests requests;
  requests.floats.push_back({tensor, begin, end, float_type(), BufferView(&out, 0, bytes)});
  return decode(std::move(requests));
}

Result<DeviceMatrix> DeviceWeights::decode_floats(uint32_t layer, const PlacedMatrix& m, const DeviceBuffer& out) {
  const Dtype dtype = held_.matrix(layout_, layer, m).dtype;
  const uint64_t bytes = uint64_t{m.rows} * m.cols * dtype_size(dtype);
  Requests requests;
  requests.floats.push_back({m.tensor, 0, m.rows, dtype, BufferView(&out, 0, bytes)});
  NWC_TRY(decode(std::move(requests)));
  return DeviceMatrix{&out, 0, dtype, m.rows, m.cols};
}

Status DeviceWeights::embed(CommandBatch& batch, const DeviceBuffer& embedding, const DeviceBuffer& ids,
                            uint32_t tokens, const DeviceBuffer& x) const {
  const ModelRecord& model = layout_.model;
  const float scale = model.ends.embedding_scale;
  const HeldMatrix& held = held_.embedding;
  if (held.integers)
    return ops_.embed(batch, IntegerWeightsView{&embedding, held.offset, &held.form}, ids, 0, tokens, x, scale, false);
  const DeviceMatrix matrix{&embedding, held.offset, held.dtype, model.vocab_size, model.hidden_size};
  return ops_.embed(batch, matrix, ids, 0, tokens, x, scale, false);
}

namespace {

Status multiply_held(const LayerOps& ops, CommandBatch& batch, const HeldMatrix& held, const BufferView& weights,
                     uint32_t rows, uint32_t tokens, const DeviceRows& in, const DeviceRows& out, bool add) {
  const uint64_t at = weights.offset + held.offset;
  if (held.integers) return ops.matmul(batch, IntegerWeightsView{weights.buffer, at, &held.form}, tokens, in, out, add);
  return ops.matmul(batch, DeviceMatrix{weights.buffer, at, held.dtype, rows, held.cols}, tokens, in, out, add);
}

}  // namespace

Status DeviceWeights::multiply(CommandBatch& batch, uint32_t layer, std::span<const PlacedMatrix> matrices,
                               const BufferView& weights, uint32_t tokens, const DeviceRows& in, const DeviceRows& out,
                               bool add) const {
  DeviceRows part = out;
  const HeldMatrix* first = nullptr;  // floats of one type without a gap are one matrix
  uint32_t rows = 0;
  const auto flush = [&]() -> Status {
    if (first == nullptr) return {};
    NWC_TRY(multiply_held(ops_, batch, *first, weights, rows, tokens, in, part, add));
    part.at += rows;
    return {};
  };
  const HeldMatrix* before = nullptr;
  for (const PlacedMatrix& m : matrices) {
    const HeldMatrix& held = held_.matrix(layout_, layer, m);
    if (before == nullptr || !held.continues(*before)) {
      NWC_TRY(flush());
      first = &held;
      rows = 0;
    }
    rows += held.rows;
    before = &held;
  }
  return flush();
}

Status DeviceWeights::multiply_output(CommandBatch& batch, const DeviceBuffer& weights, uint32_t tokens,
                                      const DeviceRows& in, const DeviceRows& out) const {
  const HeldMatrix& held = held_.output(layout_);
  return multiply_held(ops_, batch, held, &weights, held.rows, tokens, in, out, false);
}

}  // namespace nwc
