// A layer's experts on a Vulkan device: the twin of experts_cpu.h. The device multiplies by the router, the host reads
// the logits and chooses experts by the code that chooses them on the CPU (router.h), and what is missing is decoded to
// slots in device memory.
#pragma once

#include "runtime/engine/buffer.h"
#include "runtime/engine/expert_schedule.h"
#include "runtime/engine/weights_vulkan.h"

namespace nwc {

/// Everything that is passed to the constructor outlives it. Not thread-safe. Like LayerOps, what records adds no
/// barrier after its last dispatches.
class ExpertsVulkan {
 public:
  /// vectors: the model's, as ModelLayout says. most_macs: multiply-accumulates of one submission.
  ExpertsVulkan(const ForwardInputs& inputs, const WeightSource& source, VulkanDevice& device, const LayerOps& ops,
                DeviceWeights& weights, const DeviceBuffer& vectors, uint64_t most_macs);

  Status allocate(const SessionSizes& sizes, HostMemory* memory);
  /// A stream that uses the decoder rests while experts are decoded.
  void set_stream(LayerStream* stream) { schedule_.set_stream(stream); }
  /// They run while a batch passes through the layers; null: there are none.
  ExpertReads* reads() { return schedule_.reads(); }
  /// With a slot for each expert of the model: decodes those of a layer.
  Status load(uint32_t layer) { return schedule_.load(layer, decode(layer)); }
  /// Records the router's product with in [tokens][hidden], and that of the next layer's with the norm of residual
  /// [tokens][hidden] where it is worth knowing early which experts it takes.
  Status route(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in,
               const DeviceBuffer& residual);
  /// Records: x [tokens][width] times what the last route() says of the shared expert.
  Status share(CommandBatch& batch, uint32_t layer, uint32_t tokens, uint32_t width, const DeviceBuffer& x) const;
  /// Submits what was recorded since route(), waits for it, chooses experts, and records: out [tokens][hidden] =
  /// (accumulate: +=) what they make of in [tokens][hidden]. A token's experts are added up in ascending order,
  /// whatever lay in memory before. Where not all that a batch needs have slots at a time, more is submitted and waited
  /// for. errors: the decoder's, after which nothing is lost but out
  Status run(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in, bool accumulate,
             const DeviceBuffer& out);
  const ExpertStats& stats() const { return schedule_.stats(); }

 private:
  /// Experts that have slots at the same time, and the rows of their tokens: rows of one expert lie next to each other.
  struct Wave {
    std::vector<uint32_t> experts;
    uint32_t first_row = 0, rows = 0;
  };
  /// A router's logits, beside each other those of the experts and of the shared expert's gate, and its bias.
  struct LogitPlace {
    uint32_t at = 0, bias_at = 0;  ///< floats in logits_ and readback_
  };

  Status get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind, HostMemory* memory);
  ExpertSchedule::Decode decode(uint32_t layer);
  LogitPlace logits_of(bool next) const;
  uint32_t logit_stride(uint32_t layer) const { return layout_.block(layer).experts.num_experts + 1; }
  Status record_router(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in, LogitPlace place);
  void read_back(CommandBatch& batch, uint32_t layer, uint32_t tokens, LogitPlace place) const;
  /// Rows of Slot::kRouted to routed_.
  void choose(uint32_t layer, uint32_t tokens, LogitPlace place);
  std::vector<Wave> waves(uint32_t layer) const;
  void write_choices(const std::vector<Wave>& waves, uint32_t per_token);
  Status compute(CommandBatch& batch, uint32_t layer, const Wave& wave, const DeviceRows& in);
  Status multiply(CommandBatch& batch, uint32_t layer, const Wave& wave, bool down, const DeviceRows& in,
                  const DeviceRows& out);
  Status add_biases(CommandBatch& batch, uint32_t layer, Role role, const Wave& wave, uint32_t n,
                    const DeviceBuffer& out) const;
  Status submit(CommandBatch& batch);
  BufferView slot(uint32_t s) const {
    return {&slots_[s / slots_of_buffer_], s % slots_of_buffer_ * slot_bytes_, slot_bytes_};
  }

  const ModelLayout& layout_;
  const uint32_t batch_;  ///< tokens at a time
  VulkanDevice& device_;
  const LayerOps& ops_;
  DeviceWeights& weights_;
  const DeviceBuffer& vectors_;
  const uint64_t most_macs_;
  uint32_t most_experts_ = 0;  ///< of a layer
  ExpertSchedule schedule_;
  bool expects_ = false;  ///< the last route() was asked for the next layer, too
  uint64_t macs_ = 0;     ///< recorded since the last submission
  uint64_t slot_bytes_ = 0;
  uint32_t slots_of_buffer_ = 1;
  std::vector<DeviceBuffer> slots_;
  DeviceBuffer logits_, readback_, rows_, inner_, activated_, choices_, upload_;
  Buffer routed_, order_, row_;
  std::vector<uint32_t> count_of_;  ///< rows of an expert of the layer
};

}  // namespace nwc
