// The forward pass on a Vulkan device: weights, KV cache and activations lie in its memory, tokens go in, logits come
// out. Must match forward_cpu.h within rounding.
#pragma once

#include <memory>
#include <vector>

#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/cache_copy_vulkan.h"
#include "runtime/engine/experts_vulkan.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/weights_vulkan.h"
#include "runtime/graph/rope.h"

namespace nwc {

class ForwardVulkan final : public Forward {
 public:
  ForwardVulkan(const ForwardInputs& in, DeviceDecoder& decoder, IntegerProducts products)
      : file_(in.file),
        params_(in.params),
        layout_(in.layout),
        plan_(in.plan),
        model_(layout_.model),
        decoder_(decoder),
        device_(decoder.device()),
        ops_(device_, params_.kv_dtype, products),
        weights_(in, decoder, ops_),
        host_source_(file_, decoder, layout_, *in.plan.held, params_.check_crc, in.runner.num_workers()),
        rotary_(model_, plan_.context) {}

  Status allocate(const ForwardInputs& in);
  Status load(const Progress& progress);
  Status run(std::span<const uint32_t> tokens, uint32_t position) override;
  Status run_embedded(std::span<const float> x) override;
  Status hidden(uint32_t first, uint32_t count, float* out) override;
  Status logits(uint32_t first, uint32_t count, float* out) override;
  Status save_cache(const KeptCache& places, MutableBytes out) override;
  Status load_cache(const KeptCache& places, Bytes in) override;
  bool can_go_back(size_t from, size_t to) const override;
  ExpertStats expert_stats() const override { return experts_ == nullptr ? ExpertStats() : experts_->stats(); }
  uint64_t allocated_bytes() const override { return memory_.bytes + (fused_ == nullptr ? 0 : fused_->device_bytes()); }

 private:
  Status get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind);
  Status upload(const DeviceBuffer& to, uint64_t bytes);
  Status embed_on_host(std::span<const uint32_t> tokens);
  /// Without tokens, x_ has been filled.
  Status begin_batch(std::span<const uint32_t> tokens, uint32_t count);
  Status run_layers(std::span<const uint32_t> tokens, uint32_t count);
  /// Of what goes into the first block, or comes out of the last one.
  LayerOps::Norm norm_of_ends(uint32_t gain_at, uint32_t bias_at) const {
    const BlockSpec& first = model_.blocks.front();
    return {first.norm, first.norm_eps, model_.hidden_size, 1, gain_at, bias_at};
  }
  Status record_step(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens);
  Status record_norm(const Step& step, uint32_t layer, uint32_t tokens);
  Status record_qk_norm(uint32_t layer, uint32_t tokens);
  Status record_linear(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens);
  Status record_layer(uint32_t layer, const DeviceBuffer* weights, uint32_t tokens);
  Status multiply(uint32_t layer, Linear linear, const DeviceBuffer* weights, uint32_t tokens, const DeviceBuffer& in,
                  const DeviceBuffer& out, uint32_t out_stride, bool add);
  Status multiply_coded(uint32_t layer, Linear linear, uint32_t tokens, const DeviceBuffer& in, const DeviceBuffer& out,
                        uint32_t out_stride, bool add);
  Status next_submission();
  std::vector<DeviceCacheLayer> cache_layers() const;
  /// The activations that a step reads from a slot, or writes to it.
  const DeviceBuffer& slot(Slot s, bool read) const {
    const DeviceBuffer* const buffers[kNumSlots] = {&x_, &normed_, &branch_, &qkv_, &attention_, &gate_up_};
    return read && s == Slot::kInner ? activated_ : *buffers[static_cast<uint32_t>(s)];
  }
  uint32_t width(uint32_t layer, Slot s) const { return slot_width(layout_.block(layer), model_.hidden_size, s); }
  uint32_t kept(uint32_t layer) const { return kept_positions(layout_.block(layer), plan_.context, plan_.batch); }
  /// Floats of inputs_ in front of the angles.
  uint32_t angles_at() const { return 2 * plan_.batch; }
  uint64_t most_macs() const;
  bool coded(size_t tensor) const { return file_.tensors()[tensor].storage == Storage::kCoded; }
  Status logits_of(uint32_t first, uint32_t count, float* out);

  const NwcFile& file_;
  const SessionParams& params_;
  const ModelLayout& layout_;
  const MemoryPlan& plan_;
  const ModelRecord& model_;
  DeviceDecoder& decoder_;
  VulkanDevice& device_;
  const LayerOps ops_;
  DeviceWeights weights_;
  WeightSource host_source_;  ///< for what the host reads: norms, embedding rows
  const RotaryTables rotary_;
  SessionSizes sizes_;
  HostMemory memory_{0, params_.allocator};

  DeviceBuffer vectors_, positions_, embedding_, head_, head_band_, stream_buffers_[2];
  std::vector<DeviceBuffer> layers_, cache_;  ///< per layer
  DeviceBuffer x_, normed_, branch_, qkv_, attention_, gate_up_, activated_, inputs_, upload_, logits_, readback_;
  DeviceBuffer partials_;                      ///< of attention to long contexts, if there are any
  Buffer row_;                                 ///< an embedding row on the host
  std::unique_ptr<VulkanFusedProduct> fused_;  ///< kFused, and something is coded
  std::unique_ptr<ExpertsVulkan> experts_;     ///< of a mixture
  std::unique_ptr<CommandBatch> batch_;        // after the buffers: what is in flight ends before they do
  std::unique_ptr<LayerStream> stream_;        // likewise its thread
  std::vector<float> head_bias_;               ///< empty: none
  uint32_t position_ = 0;                      ///< of the batch at work
  uint64_t macs_ = 0;                          ///< recorded since the last submission
};

}  // namespace nwc
