// A layer's experts on the CPU: where they lie, decoding those that a batch of tokens needs, and what they compute.
#pragma once

#include "runtime/engine/buffer.h"
#include "runtime/engine/expert_cache.h"
#include "runtime/engine/held_product.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/router.h"

namespace nwc {

/// Everything that is passed to the constructor outlives it. Not thread-safe.
class ExpertsCpu {
 public:
  ExpertsCpu(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan, WeightSource& source,
             const HeldProduct& product);

  Status allocate(const SessionSizes& sizes, uint64_t* counter);
  /// A stream that uses the decoder rests while experts are decoded.
  void set_stream(LayerStream* stream) { stream_ = stream; }
  /// With a slot for each expert of the model: decodes those of a layer.
  Status load(uint32_t layer);
  /// Fills in Slot::kRouted. vectors: the model's, as ModelLayout says.
  void route(uint32_t layer, uint32_t tokens, const float* in, const float* vectors);
  /// out [tokens][hidden] = (accumulate: +=) what the experts of the last route() make of in [tokens][hidden]. A
  /// token's experts are added up in ascending order, whatever lay in memory before. errors: the decoder's, after which
  /// nothing is lost but out
  Status run(uint32_t layer, uint32_t tokens, const float* in, const float* vectors, bool accumulate, float* out);
  /// x [tokens][stride]: its first `width` numbers times what the last route() says of the shared expert.
  void share(uint32_t layer, uint32_t tokens, uint32_t width, size_t stride, float* x);
  /// Asks for the bytes of the experts that the next layer's router takes for these inputs, which will change a little
  /// until then. residual [tokens][hidden] is what this layer's experts are about to be added to.
  void expect_next(uint32_t layer, uint32_t tokens, const float* residual, const float* vectors);
  const ExpertStats& stats() const { return stats_; }

 private:
  struct Choice {
    uint32_t expert = 0, token = 0;
    float weight = 0;
  };
  Status bring(uint32_t layer, std::span<const uint32_t> experts);
  void compute(uint32_t layer, uint32_t expert, std::span<const Choice> choices, const float* in, const float* vectors,
               float* out);
  const float* vector(const float* vectors, uint32_t layer, Role role) const {
    const uint32_t at = layout_.layers[layer].vector(role);
    return at == kNoVector ? nullptr : vectors + at;
  }
  RouterWeights router(const float* vectors, uint32_t layer) const {
    return {vector(vectors, layer, Role::kRouter), vector(vectors, layer, Role::kRouterBias),
            vector(vectors, layer, Role::kSharedGate)};
  }
  const uint8_t* slot(uint32_t s) const { return slots_.data() + s * slot_bytes_; }

  const NwcFile& file_;
  const ModelLayout& layout_;
  WeightSource& source_;
  const HeldWeights& held_;
  const HeldProduct product_;
  LayerStream* stream_ = nullptr;
  std::vector<uint64_t> before_;  ///< experts of the layers in front of each
  ExpertCache cache_;
  ExpertStats stats_;
  uint64_t slot_bytes_ = 0;
  Buffer slots_, routed_, logits_, order_, gathered_, inner_, outputs_;
  std::vector<Choice> choices_;              ///< of the batch, by expert, then by token
  std::vector<uint32_t> needed_, expected_;  ///< experts of a layer, ascending; of the next one
};

}  // namespace nwc
