// The forward pass on the CPU: embedding, the steps of each layer (runtime/graph/steps.h), norm, head. The readable
// twin of forward_vulkan.h.
#pragma once

#include <memory>
#include <vector>

#include "runtime/codec/fused_product.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/experts_cpu.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/held_product.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/graph/rope.h"

namespace nwc {

class ForwardCpu final : public Forward {
 public:
  explicit ForwardCpu(const ForwardInputs& in)
      : file_(in.file),
        runner_(in.runner),
        params_(in.params),
        layout_(in.layout),
        plan_(in.plan),
        model_(layout_.model),
        level_(std::min(params_.max_cpu, detect_cpu_level())),
        kernels_(kernel_table(level_)),
        held_(*in.plan.held),
        row_dtype_(held_.row_dtype()),
        source_(file_, in.decoder, layout_, held_, params_.check_crc, runner_.num_workers()),
        rotary_(model_, plan_.context) {}

  Status allocate(const ForwardInputs& in);
  Status load(const Progress& progress);
  Status run(std::span<const uint32_t> tokens, uint32_t position) override;
  Status run_each(std::span<const uint32_t> tokens, uint32_t position) override;
  Status run_embedded(std::span<const float> x) override;
  Status hidden(uint32_t first, uint32_t count, float* out) override;
  Status logits(uint32_t first, uint32_t count, float* out) override;
  Status save_cache(const KeptCache& places, MutableBytes out) override;
  Status load_cache(const KeptCache& places, Bytes in) override;
  bool can_go_back(size_t from, size_t to) const override;
  ExpertStats expert_stats() const override { return experts_ == nullptr ? ExpertStats() : experts_->stats(); }
  uint64_t allocated_bytes() const override { return memory_.bytes; }

 private:
  Status embed(std::span<const uint32_t> tokens);
  Status run_layers(uint32_t tokens);
  Status run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens);
  Status run_step(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens);
  void norm(const Step& step, uint32_t layer, uint32_t tokens);
  void norm_queries_and_keys(uint32_t layer, uint32_t tokens);
  void rotate(uint32_t layer, uint32_t tokens);
  void store_and_attend(uint32_t layer, uint32_t tokens);
  Status linear(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens);
  Status multiply(uint32_t layer, Linear linear, const uint8_t* weights, uint32_t tokens, const float* in,
                  size_t stride, float* out);
  Status multiply_by_head(uint32_t first, uint32_t count, float* out);
  Status fused_multiply(size_t tensor, const float* in, float* out);

  HeldProduct product() { return {level_, kernels_, runner_, scratch_.as<float>(), integers_.data()}; }
  /// Bytes of a resident layer.
  uint64_t resident_layer(uint32_t l) const { return Buffer::rounded(held_.layers[l].bytes); }
  const float* vector(uint32_t at) const { return at == kNoVector ? nullptr : vectors_.as<float>() + at; }
  void widen_row(Dtype dtype, const uint8_t* row, float* out) const;
  Buffer& slot(Slot s) {
    Buffer* const buffers[] = {&x_, &normed_, &branch_, &qkv_, &attention_, &inner_};
    return *buffers[static_cast<uint32_t>(s)];  // kRouted is the experts' own
  }
  uint32_t width(uint32_t layer, Slot s) const { return slot_width(layout_.block(layer), model_.hidden_size, s); }

  const NwcFile& file_;
  Runner& runner_;
  const SessionParams& params_;
  const ModelLayout& layout_;
  const MemoryPlan& plan_;
  const ModelRecord& model_;
  const CpuLevel level_;
  const KernelTable& kernels_;
  const HeldWeights& held_;
  const Dtype row_dtype_;
  WeightSource source_;
  const RotaryTables rotary_;
  SessionSizes sizes_;
  HostMemory memory_{0, params_.allocator};

  Buffer vectors_, positions_, embedding_, head_, head_band_, row_, stream_buffers_[2];
  Buffer resident_;                 ///< layers, one behind the other, so that large pages hold them
  std::vector<uint64_t> layer_at_;  ///< bytes in front of each
  Buffer x_, normed_, branch_, qkv_, attention_, inner_, angles_, integers_, scratch_;
  std::vector<KvCache> caches_;                                ///< one per sequence
  const std::unique_ptr<Runner> alone_ = make_thread_pool(1);  ///< runs what one worker does for one sequence
  std::unique_ptr<ExpertsCpu> experts_;                        ///< of a mixture
  struct Fused {
    explicit Fused(const NwcFile& file)
        : tables(build_decode_tables(*file.codec())), product(file, tables), checked(file.tensors().size()) {}
    const DecodeTables tables;
    FusedProduct product;
    std::vector<uint8_t> checked;  ///< per tensor: 1 if its payload's CRC-32 has been
  };
  std::unique_ptr<Fused> fused_;         // kFused, and something is coded
  std::unique_ptr<LayerStream> stream_;  // after the buffers: its thread ends before they do

  uint32_t position_of(uint32_t token) const { return each_ ? position_ : position_ + token; }

  uint32_t position_ = 0;  ///< of the batch at work
  bool each_ = false;      ///< its tokens are of different sequences
};

}  // namespace nwc
