// Where a model's matrices lie in the memory of a device, in the forms that the plan's HeldWeights say.
#pragma once

#include "runtime/decoder/vulkan/device_decoder.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/layer_ops_vulkan.h"
#include "runtime/engine/layer_stream.h"

namespace nwc {

class DeviceWeights {
 public:
  /// decoder: the inputs' own, on its device. What is referred to outlives the weights.
  DeviceWeights(const ForwardInputs& inputs, DeviceDecoder& decoder, const LayerOps& ops);

  /// Of rows that are looked up and of bands of the head.
  Dtype float_type() const { return held_.row_dtype(); }
  /// Bytes of a layer's buffer.
  uint64_t layer_bytes(uint32_t layer) const;

  /// All matrices of a layer to its buffer.
  Status decode_layer(uint32_t layer, const DeviceBuffer& out);
  struct ExpertRequest {
    uint32_t expert = 0;
    BufferView out;
  };
  /// Different experts of a layer, together.
  Status decode_experts(uint32_t layer, std::span<const ExpertRequest> requests);
  Status decode_embedding(const DeviceBuffer& out);
  Status decode_head(const DeviceBuffer& out);
  /// Rows as floating-point numbers of float_type().
  Status decode_rows(size_t tensor, uint64_t begin, uint64_t end, const DeviceBuffer& out);
  /// A matrix that is not coded, by itself, to a layer's buffer.
  Result<DeviceMatrix> decode_floats(uint32_t layer, const PlacedMatrix& m, const DeviceBuffer& out);

  // Dispatches that read what these wrote. in, out: of all rows of the product.
  Status embed(CommandBatch& batch, const DeviceBuffer& embedding, const DeviceBuffer& ids, uint32_t tokens,
               const DeviceBuffer& x) const;
  Status multiply(CommandBatch& batch, uint32_t layer, Linear linear, const DeviceBuffer& weights, uint32_t tokens,
                  const DeviceRows& in, const DeviceRows& out, bool add) const {
    return multiply(batch, layer, layout_.layers[layer].linear(linear), &weights, tokens, in, out, add);
  }
  /// Some of a layer's matrices, or of an expert's, which lie in `weights` as HeldWeights says.
  Status multiply(CommandBatch& batch, uint32_t layer, std::span<const PlacedMatrix> matrices,
                  const BufferView& weights, uint32_t tokens, const DeviceRows& in, const DeviceRows& out,
                  bool add) const;
  /// weights: the head's, or the embedding's where they are tied.
  Status multiply_output(CommandBatch& batch, const DeviceBuffer& weights, uint32_t tokens, const DeviceRows& in,
                         const DeviceRows& out) const;
  /// Rows that decode_rows() wrote.
  DeviceMatrix rows(const DeviceBuffer& buffer, uint64_t rows, uint64_t cols) const {
    return {&buffer, 0, float_type(), static_cast<uint32_t>(rows), static_cast<uint32_t>(cols)};
  }

 private:
  struct Requests {
    std::vector<DeviceDecodeRequest> floats;
    std::vector<DeviceIntegerRequest> integers;
  };
  void add(Requests* requests, size_t tensor, const HeldMatrix& held, const BufferView& out) const;
  Status decode(Requests requests);
  Status decode_whole(size_t tensor, const HeldMatrix& held, const DeviceBuffer& out);

  const NwcFile& file_;
  const SessionParams& params_;
  const ModelLayout& layout_;
  const HeldWeights& held_;
  DeviceDecoder& decoder_;
  const LayerOps& ops_;
  CheckedRows checked_;
};

}  // namespace nwc
