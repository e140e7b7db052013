// A layer's experts on the CPU: where they lie, decoding those that a batch of tokens needs, and what they compute. The
// readable twin of experts_vulkan.h.
#pragma once

#include "runtime/engine/buffer.h"
#include "runtime/engine/expert_schedule.h"
#include "runtime/engine/held_product.h"

namespace nwc {

/// Everything that is passed to the constructor outlives it. Not thread-safe.
class ExpertsCpu {
 public:
  ExpertsCpu(const ForwardInputs& inputs, WeightSource& source, const HeldProduct& product);

  Status allocate(const SessionSizes& sizes, HostMemory* memory);
  /// A stream that uses the decoder rests while experts are decoded.
  void set_stream(LayerStream* stream) { schedule_.set_stream(stream); }
  /// They run while a batch passes through the layers; null: there are none.
  ExpertReads* reads() { return schedule_.reads(); }
  /// With a slot for each expert of the model: decodes those of a layer.
  Status load(uint32_t layer) { return schedule_.load(layer, decode(layer)); }
  /// Fills in Slot::kRouted. vectors: the model's, as ModelLayout says.
  void route(uint32_t layer, uint32_t tokens, const float* in, const float* vectors);
  /// out [tokens][hidden] = (accumulate: +=) what the experts of the last route() make of in [tokens][hidden]. A
  /// token's experts are added up in ascending order, whatever lay in memory before. Asks for the bytes of the experts
  /// that the next layer's router takes for residual [tokens][hidden], to which what these experts make is about to be
  /// added. errors: the decoder's, after which nothing is lost but out
  Status run(uint32_t layer, uint32_t tokens, const float* in, const float* residual, const float* vectors,
             bool accumulate, float* out);
  /// x [tokens][stride]: its first `width` numbers times what the last route() says of the shared expert.
  void share(uint32_t layer, uint32_t tokens, uint32_t width, size_t stride, float* x);
  const ExpertStats& stats() const { return schedule_.stats(); }

 private:
  ExpertSchedule::Decode decode(uint32_t layer);
  void expect_next(uint32_t layer, uint32_t tokens, const float* residual, const float* vectors);
  void compute(uint32_t layer, uint32_t expert, std::span<const ExpertChoice> choices, const float* in,
               const float* vectors, float* out);
  const float* vector(const float* vectors, uint32_t layer, Role role) const {
    const uint32_t at = layout_.layers[layer].vector(role);
    return at == kNoVector ? nullptr : vectors + at;
  }
  RouterWeights router(const float* vectors, uint32_t layer) const {
    return {vector(vectors, layer, Role::kRouter), vector(vectors, layer, Role::kRouterBias),
            vector(vectors, layer, Role::kSharedGate)};
  }
  uint8_t* slot(uint32_t s) const { return slots_.data() + s * slot_bytes_; }

  const ModelLayout& layout_;
  WeightSource& source_;
  const HeldWeights& held_;
  const HeldProduct product_;
  ExpertSchedule schedule_;
  uint64_t slot_bytes_ = 0;
  Buffer slots_, routed_, logits_, order_, gathered_, inner_, outputs_;
};

}  // namespace nwc
