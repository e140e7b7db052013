// Which experts of a layer a batch of tokens takes, and which of them have to be decoded first: what experts on the CPU
// and on a device have in common.
#pragma once

#include <functional>

#include "runtime/engine/expert_cache.h"
#include "runtime/engine/expert_reads.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/router.h"

namespace nwc {

/// A token takes an expert.
struct ExpertChoice {
  uint32_t expert = 0, token = 0;
  float weight = 0;
};

/// The stored bytes of an expert, a piece for each of its tensors, in place of what *pieces has.
void stored_pieces(const NwcFile& file, const LayerLayout& layer, uint32_t expert,
                   std::vector<ExpertReads::Piece>* pieces);

/// An expert that is to be decoded to a slot.
struct ExpertPlace {
  uint32_t expert = 0, slot = 0;
};

/// Everything that is passed to the constructor outlives it. Not thread-safe.
class ExpertSchedule {
 public:
  /// Decodes experts of a layer.
  using Decode = std::function<Status(std::span<const ExpertPlace>)>;

  ExpertSchedule(const ForwardInputs& inputs, const WeightSource& source);

  /// Memory for reading ahead, as the plan says. errors: kOutOfMemory
  Status allocate(const SessionSizes& sizes, HostMemory* memory);
  /// They run while a batch passes through the layers. Null: what is missing is read when it is decoded.
  ExpertReads* reads() { return reads_.get(); }
  /// A stream that uses the decoder rests while experts are decoded.
  void set_stream(LayerStream* stream) { stream_ = stream; }
  uint32_t slots() const { return cache_.slots(); }
  /// Is there a slot for every expert of the model?
  bool holds_all() const { return cache_.slots() == before_.back(); }
  /// With a slot for every expert: decodes those of a layer.
  Status load(uint32_t layer, const Decode& decode);

  /// A batch takes these experts: rows of Slot::kRouted. What is missing begins to be read.
  void choose(uint32_t layer, uint32_t tokens, const float* routed);
  /// By expert, then by token.
  std::span<const ExpertChoice> choices() const { return choices_; }
  /// Their experts, ascending.
  std::span<const uint32_t> needed() const { return needed_; }

  /// Does the layer's successor have experts of which it is worth knowing early which ones a batch takes?
  bool expects(uint32_t layer, uint32_t tokens) const;
  /// These rows of Slot::kRouted are what the layer's router will probably take: their experts' bytes are read behind
  /// those that this layer lacks.
  void expect(uint32_t layer, uint32_t tokens, const float* routed);

  /// Different experts of a layer, at most slots(), lie in their slots afterwards; those that do not are decoded.
  /// errors: the decoder's; what could not be decoded has no slot then
  Status bring(uint32_t layer, std::span<const uint32_t> experts, const Decode& decode);
  /// Of an expert, or ExpertCache::kNone.
  uint32_t slot(uint32_t layer, uint32_t expert) const { return cache_.find(before_[layer] + expert); }
  const ExpertStats& stats() const { return stats_; }

 private:
  uint64_t number(uint32_t layer, uint32_t expert) const { return before_[layer] + expert; }
  /// The stored bytes of an expert, valid until the next call.
  std::span<const ExpertReads::Piece> pieces(uint32_t layer, uint32_t expert);
  Status decode_as_read(uint32_t layer, std::vector<ExpertPlace>* missing, const Decode& decode);
  Status decode_now(std::span<const ExpertPlace> places, const Decode& decode);

  const NwcFile& file_;
  const ModelLayout& layout_;
  const WeightSource& source_;
  const ExpertsChosen& chosen_;
  const uint32_t reads_at_once_;
  LayerStream* stream_ = nullptr;
  std::vector<uint64_t> before_;  ///< experts of the layers in front of each, and of all
  ExpertCache cache_;
  ExpertStats stats_;
  std::vector<ExpertChoice> choices_;
  std::vector<uint32_t> needed_, expected_;  ///< experts of a layer, ascending; of the next one
  std::vector<ExpertReads::Piece> pieces_;
  std::unique_ptr<ExpertReads> reads_;
};

}  // namespace nwc
