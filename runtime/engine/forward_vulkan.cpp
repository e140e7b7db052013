// The forward pass on a Vulkan device: weights, KV cache and activations lie in its memory, tokens go in, logits come
// out. Must match forward_cpu.cpp within rounding.
#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/cache_copy_vulkan.h"
#include "runtime/engine/experts_vulkan.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/engine/layer_ops_self_test_vulkan.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/weights_vulkan.h"
#include "runtime/graph/rope.h"

namespace nwc {
namespace {

/// Multiply-accumulates of one submission: well below the second or two after which some systems reset a device.
constexpr uint64_t kMaxSubmissionMacs = 200'000'000'000;
constexpr uint64_t kMaxSubmissionMacsSoftware = 10'000'000'000;

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
  uint64_t most_macs() const {
    return device_.info().quirks.software ? kMaxSubmissionMacsSoftware : kMaxSubmissionMacs;
  }
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

Status ForwardVulkan::get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind) {
  NWC_ASSIGN_OR_RETURN(buffer, DeviceBuffer::create(device_, bytes, kind));
  memory_.bytes += buffer.size();
  return {};
}

Status ForwardVulkan::allocate(const ForwardInputs& in) {
  sizes_ = session_sizes(file_, layout_, params_, *plan_.held, plan_.context, plan_.batch);
  const auto on_device = [this](DeviceBuffer& buffer, uint64_t bytes) {
    return get(buffer, bytes, MemoryKind::kDevice);
  };
  NWC_TRY(on_device(vectors_, sizes_.vectors));
  if (layout_.positions != kNoTensor) NWC_TRY(on_device(positions_, sizes_.positions));
  layers_.resize(plan_.resident_layers);
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(on_device(layers_[l], weights_.layer_bytes(l)));
  }
  if (streamed_layers(model_, plan_) != 0) {
    for (DeviceBuffer& buffer : stream_buffers_) NWC_TRY(on_device(buffer, sizes_.layer));
  }
  if (fused_layers(model_, plan_) != 0) NWC_TRY(on_device(stream_buffers_[0], sizes_.layer));
  const bool has_embedding = layout_.has_embedding();
  if (has_embedding && plan_.embedding_resident) NWC_TRY(on_device(embedding_, sizes_.embedding));
  if (has_embedding && !plan_.embedding_resident)
    NWC_TRY(row_.allocate(sizes_.embedding_row, &memory_, "an embedding row"));
  if (plan_.head_resident && layout_.separate_head()) NWC_TRY(on_device(head_, sizes_.head));
  if (layout_.has_head() && !plan_.head_resident) NWC_TRY(on_device(head_band_, sizes_.head_band));
  cache_.resize(model_.num_layers);
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    NWC_TRY(on_device(cache_[l], device_cache_bytes(layout_.block(l), plan_.context, plan_.batch, params_.kv_dtype)));
  }
  for (DeviceBuffer* buffer : {&x_, &normed_}) NWC_TRY(on_device(*buffer, sizes_.hidden));
  if (layout_.uses(Slot::kBranch)) NWC_TRY(on_device(branch_, sizes_.hidden));
  NWC_TRY(on_device(qkv_, sizes_.qkv));
  NWC_TRY(on_device(attention_, sizes_.attention));
  if (sizes_.partials != 0) NWC_TRY(on_device(partials_, sizes_.partials));
  if (sizes_.gate_up != 0) {  // not without a shared expert
    NWC_TRY(on_device(gate_up_, sizes_.gate_up));
    NWC_TRY(on_device(activated_, sizes_.activated));
  }
  NWC_TRY(on_device(inputs_, sizes_.inputs));
  NWC_TRY(on_device(logits_, sizes_.logits));
  NWC_TRY(get(upload_, sizes_.inputs, MemoryKind::kUpload));
  NWC_TRY(get(readback_, sizes_.logits, MemoryKind::kReadback));
  NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(device_, decoder_.pipelines()));
  if (plan_.num_experts == 0) return {};
  experts_ = std::make_unique<ExpertsVulkan>(in, host_source_, device_, ops_, weights_, vectors_, most_macs());
  return experts_->allocate(sizes_, &memory_);
}

// The first bytes of upload_ to a buffer.
Status ForwardVulkan::upload(const DeviceBuffer& to, uint64_t bytes) {
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  batch_->copy(upload_, 0, to, 0, bytes);
  batch_->barrier();
  return batch_->submit_and_wait();
}

Status ForwardVulkan::load(const Progress& progress) {
  const std::vector<size_t> products = fused_matrices(file_, layout_, plan_);
  const uint64_t steps = plan_.resident_layers + products.size() + 1;
  const auto report = [&](uint64_t done) {
    return progress.report(done, steps) ? Status() : Status(StatusCode::kCancelled, "loading the model was cancelled");
  };
  NWC_TRY(report(0));
  {
    const uint64_t bytes = uint64_t{layout_.vector_elements} * sizeof(float);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer staging, DeviceBuffer::create(device_, bytes, MemoryKind::kUpload));
    NWC_TRY(host_source_.decode_vectors(layout_.vectors, reinterpret_cast<float*>(staging.mapped().data())));
    if (layout_.head_bias_at != kNoVector) {
      const float* bias = reinterpret_cast<const float*>(staging.mapped().data()) + layout_.head_bias_at;
      head_bias_.assign(bias, bias + model_.vocab_size);
    }
    NWC_TRY(staging.flush());
    NWC_TRY(batch_->begin());
    batch_->copy(staging, 0, vectors_, 0, bytes);
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
  }
  if (layout_.positions != kNoTensor)
    NWC_TRY(weights_.decode_rows(layout_.positions, 0, model_.ends.position_rows, positions_));
  if (embedding_.size() != 0) NWC_TRY(weights_.decode_embedding(embedding_));
  if (head_.size() != 0) NWC_TRY(weights_.decode_head(head_));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(weights_.decode_layer(l, layers_[l]));
    if (plan_.num_experts != 0 && plan_.expert_slots == plan_.num_experts) NWC_TRY(experts_->load(l));
    NWC_TRY(report(uint64_t{l} + 2));
  }
  if (!products.empty()) {
    NWC_ASSIGN_OR_RETURN(fused_, VulkanFusedProduct::create(decoder_));
  }
  for (size_t i = 0; i < products.size(); ++i) {
    NWC_TRY(fused_->load(products[i], params_.check_crc));
    NWC_TRY(report(plan_.resident_layers + i + 2));
  }
  if (streamed_layers(model_, plan_) != 0) {
    NWC_ASSIGN_OR_RETURN(stream_, LayerStream::start(plan_.resident_layers, model_.num_layers,
                                                     [this](uint32_t layer, uint32_t, uint32_t slot) -> Result<bool> {
                                                       NWC_TRY(weights_.decode_layer(layer, stream_buffers_[slot]));
                                                       return true;
                                                     }));
    if (experts_ != nullptr) experts_->set_stream(stream_.get());
  }
  return {};
}

// Rows of an embedding that is not resident, to x.
Status ForwardVulkan::embed_on_host(std::span<const uint32_t> tokens) {
  const uint32_t n = model_.hidden_size;
  float* x = reinterpret_cast<float*>(upload_.mapped().data());
  const MutableBytes row(row_.data(), size_t{n} * dtype_size(weights_.float_type()));
  for (size_t t = 0; t < tokens.size(); ++t) {
    const size_t at = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), tokens[t]) - tokens.begin());
    if (at < t) {
      std::copy_n(x + at * n, n, x + t * n);
      continue;
    }
    NWC_TRY(host_source_.decode_rows(layout_.embedding, tokens[t], uint64_t{tokens[t]} + 1, row));
    const auto halves = [&](uint32_t i) { return reinterpret_cast<const uint16_t*>(row.data())[i]; };
    if (weights_.float_type() == Dtype::kF32) {
      std::memcpy(x + t * n, row.data(), row.size());
    } else {
      const bool f16 = weights_.float_type() == Dtype::kF16;
      for (uint32_t i = 0; i < n; ++i) x[t * n + i] = f16 ? f16_to_f32(halves(i)) : bf16_to_f32(halves(i));
    }
  }
  if (model_.ends.embedding_scale != 1) {
    for (size_t i = 0; i < tokens.size() * n; ++i) x[i] *= model_.ends.embedding_scale;
  }
  return upload(x_, tokens.size() * n * sizeof(float));
}

// Uploads ids and angles; begins the batch's first submission with the embedding.
Status ForwardVulkan::begin_batch(std::span<const uint32_t> tokens, uint32_t count) {
  if (!tokens.empty() && !plan_.embedding_resident) NWC_TRY(embed_on_host(tokens));
  uint8_t* to = upload_.mapped().data();
  // Ids and positions [batch] each, then the angles.
  std::memcpy(to, tokens.data(), tokens.size_bytes());
  uint32_t* positions = reinterpret_cast<uint32_t*>(to) + plan_.batch;
  float* angles = reinterpret_cast<float*>(to) + angles_at();
  for (uint32_t t = 0; t < count; ++t) {
    positions[t] = position_ + t;
    rotary_.angles(position_ + t, angles + size_t{t} * rotary_.width());
  }
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  batch_->copy(upload_, 0, inputs_, 0, (uint64_t{angles_at()} + uint64_t{count} * rotary_.width()) * sizeof(float));
  batch_->barrier();
  const uint32_t n = model_.hidden_size, rows = layout_.positions == kNoTensor ? 0 : model_.ends.position_rows;
  if (!tokens.empty() && plan_.embedding_resident) {
    NWC_TRY(weights_.embed(*batch_, embedding_, inputs_, count, x_));
    batch_->barrier();
  }
  if (rows != 0) {
    NWC_TRY(ops_.embed(*batch_, weights_.rows(positions_, rows, n), inputs_, plan_.batch, count, x_, 1, true));
    batch_->barrier();
  }
  if (layout_.token_types_at != kNoVector) {  // the first row: every token is of type 0
    NWC_TRY(ops_.add_rows(*batch_, count, n, 1, {&x_, 0, n}, {&vectors_, layout_.token_types_at, 0}));
    batch_->barrier();
  }
  if (!model_.ends.encoder.embedding_norm) return {};
  NWC_TRY(ops_.norm(*batch_, norm_of_ends(layout_.embedding_norm_at, layout_.embedding_norm_bias_at), count,
                    {&x_, 0, n}, vectors_, {&x_, 0, n}));
  batch_->barrier();
  return {};
}

// out [tokens][rows of all] = (add: +=) in [tokens][cols] times matrices first to last, which have the same input.
// weights: the layer's, or null: from the payloads.
Status ForwardVulkan::multiply(uint32_t layer, Linear linear, const DeviceBuffer* weights, uint32_t tokens,
                               const DeviceBuffer& in, const DeviceBuffer& out, uint32_t out_stride, bool add) {
  if (weights == nullptr) return multiply_coded(layer, linear, tokens, in, out, out_stride, add);
  const uint32_t cols = layout_.layers[layer].linear(linear).front().cols;
  return weights_.multiply(*batch_, layer, linear, *weights, tokens, {&in, 0, cols}, {&out, 0, out_stride}, add);
}

Status ForwardVulkan::multiply_coded(uint32_t layer, Linear linear, uint32_t tokens, const DeviceBuffer& in,
                                     const DeviceBuffer& out, uint32_t out_stride, bool add) {
  std::vector<VulkanFusedProduct::Product> products;
  uint64_t at = 0;
  for (const PlacedMatrix& m : layout_.layers[layer].linear(linear)) {
    const size_t tensor = m.tensor;
    const uint64_t rows = m.rows;
    const uint32_t cols = m.cols;
    if (coded(tensor)) {
      const uint64_t offset = at * sizeof(float);
      products.push_back({tensor, tokens, &in, cols, BufferView(&out, offset, out.size() - offset), out_stride, add});
    } else {
      // Decoded now: whatever still reads the buffer has to be done.
      NWC_TRY(next_submission());
      NWC_ASSIGN_OR_RETURN(const DeviceMatrix matrix, weights_.decode_floats(layer, m, stream_buffers_[0]));
      NWC_TRY(ops_.matmul(*batch_, matrix, tokens, {&in, 0, cols}, {&out, static_cast<uint32_t>(at), out_stride}, add));
      batch_->barrier();
    }
    at += rows;
  }
  return products.empty() ? Status() : fused_->record(*batch_, products);
}

Status ForwardVulkan::next_submission() {
  NWC_TRY(batch_->submit_and_wait());
  macs_ = 0;
  NWC_TRY(batch_->begin());
  batch_->barrier();
  return {};
}

Status ForwardVulkan::record_norm(const Step& step, uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t n = model_.hidden_size;
  const LayerOps::Norm norm{block.norm, block.norm_eps, n, 1, at.vector(step.gain), at.vector(step.bias)};
  return ops_.norm(*batch_, norm, tokens, {&slot(step.in, true), 0, n}, vectors_, {&slot(step.out, false), 0, n});
}

Status ForwardVulkan::record_qk_norm(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t stride = width(layer, Slot::kQkv);
  uint32_t from = 0;
  for (const bool keys : {false, true}) {
    const uint32_t all = keys ? block.kv_width() : block.q_width();
    const uint32_t n = block.qk_norm == QkNorm::kWhole ? all : block.head_dim;
    const Role role = keys ? Role::kKNorm : Role::kQNorm;
    const LayerOps::Norm norm{block.norm, block.norm_eps, n, all / n, at.vector(role), kNoVector};
    NWC_TRY(ops_.norm(*batch_, norm, tokens, {&qkv_, from, stride}, vectors_, {&qkv_, from, stride}));
    from += all;
  }
  return {};
}

Status ForwardVulkan::record_linear(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  const uint32_t rows = width(layer, step.out);
  const DeviceBuffer& out = slot(step.out, false);
  NWC_TRY(multiply(layer, step.linear, weights, tokens, slot(step.in, true), out, rows, step.accumulate));
  const uint32_t bias = layout_.layers[layer].bias(step.linear);
  if (bias == kNoVector) return {};
  batch_->barrier();
  return ops_.add_rows(*batch_, tokens, rows, 1, {&out, 0, rows}, {&vectors_, bias, 0});
}

Status ForwardVulkan::record_step(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t n = model_.hidden_size;
  switch (step.kind) {
    case StepKind::kNorm: return record_norm(step, layer, tokens);
    case StepKind::kLinear: return record_linear(step, layer, weights, tokens);
    case StepKind::kQkNorm: return record_qk_norm(layer, tokens);
    case StepKind::kRotate: return {};
    case StepKind::kAttend: {
      const uint32_t table = angles_at() + rotary_.at(layout_.layers[layer].kind);
      NWC_TRY(ops_.rope_store(*batch_, block, tokens, position_, kept(layer), qkv_, {&inputs_, table, rotary_.width()},
                              cache_[layer]));
      batch_->barrier();
      const uint32_t sinks = layout_.layers[layer].vector(Role::kSinks);
      return ops_.attend(*batch_, block, tokens, position_, kept(layer), qkv_, cache_[layer],
                         sinks != kNoVector ? DeviceRows{&vectors_, sinks, 0} : DeviceRows(), partials_, attention_);
    }
    case StepKind::kActivate:
      return ops_.activate(*batch_, block, tokens, block.dense_width(), {&gate_up_, 0, 0}, {&activated_, 0, 0});
    case StepKind::kAdd:
      return ops_.add_rows(*batch_, tokens, n, step.scale, {&slot(step.out, false), 0, n},
                           {&slot(step.in, true), 0, n});
    case StepKind::kRoute: return experts_->route(*batch_, layer, tokens, slot(step.in, true), x_);
    case StepKind::kExperts:
      macs_ = 0;
      return experts_->run(*batch_, layer, tokens, slot(step.in, true), step.accumulate, slot(step.out, false));
    case StepKind::kShare: return experts_->share(*batch_, layer, tokens, block.dense_width(), activated_);
    case StepKind::kScale:
      return ops_.scale_rows(*batch_, tokens, n, {&slot(step.in, false), 0, n},
                             {&vectors_, layout_.layers[layer].vector(step.gain), 0});
  }
  return {};
}

Status ForwardVulkan::record_layer(uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  for (const Step& step : layout_.layer_steps(layer)) {
    if (step.kind == StepKind::kRotate) continue;  // on the way to the cache
    NWC_TRY(record_step(step, layer, weights, tokens));
    batch_->barrier();
  }
  return {};
}

std::vector<DeviceCacheLayer> ForwardVulkan::cache_layers() const {
  std::vector<DeviceCacheLayer> out;
  for (uint32_t l = 0; l < model_.num_layers; ++l) out.push_back({&cache_[l], kept(l)});
  return out;
}

Status ForwardVulkan::save_cache(const KeptCache& places, MutableBytes out) {
  return save_device_cache(cache_layers(), places, *batch_, readback_, out);
}

Status ForwardVulkan::load_cache(const KeptCache& places, Bytes in) {
  return load_device_cache(cache_layers(), places, *batch_, upload_, in);
}

bool ForwardVulkan::can_go_back(size_t from, size_t to) const {
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (oldest_seen(layout_.block(l), to) + kept(l) < from) return false;
  }
  return true;
}

Status ForwardVulkan::run(std::span<const uint32_t> tokens, uint32_t position) {
  position_ = position;
  return run_layers(tokens, static_cast<uint32_t>(tokens.size()));
}

Status ForwardVulkan::run_embedded(std::span<const float> x) {
  position_ = 0;
  std::memcpy(upload_.mapped().data(), x.data(), x.size_bytes());
  NWC_TRY(upload(x_, x.size_bytes()));
  return run_layers({}, static_cast<uint32_t>(x.size() / model_.hidden_size));
}

Status ForwardVulkan::hidden(uint32_t first, uint32_t count, float* out) {
  const uint64_t row = uint64_t{model_.hidden_size} * sizeof(float);
  const uint32_t most = static_cast<uint32_t>(std::max<uint64_t>(1, readback_.size() / row));
  for (uint32_t done = 0; done < count; done += most) {
    const uint64_t bytes = std::min(most, count - done) * row;
    NWC_TRY(batch_->begin());
    batch_->barrier();
    batch_->copy(normed_, (first + done) * row, readback_, 0, bytes);
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
    NWC_TRY(readback_.invalidate());
    std::memcpy(reinterpret_cast<uint8_t*>(out) + done * row, readback_.mapped().data(), static_cast<size_t>(bytes));
  }
  return {};
}

Status ForwardVulkan::run_layers(std::span<const uint32_t> tokens, uint32_t count) {
  const uint64_t most = most_macs();
  const uint64_t layer_macs = layout_.max_layer_elements() * count;
  const bool from_payloads = plan_.mode == SessionMode::kFused && count <= kMaxFusedBatch;
  NWC_TRY(begin_batch(tokens, count));
  const LayerStream::Running running(stream_.get());
  const ExpertReads::Running reading(experts_ == nullptr ? nullptr : experts_->reads());
  macs_ = 0;
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (l < plan_.resident_layers || from_payloads) {
      if (macs_ + layer_macs > most && macs_ != 0) NWC_TRY(next_submission());
      macs_ += layer_macs;
      NWC_TRY(record_layer(l, l < plan_.resident_layers ? &layers_[l] : nullptr, count));
    } else if (plan_.mode == SessionMode::kFused) {
      NWC_TRY(next_submission());
      NWC_TRY(weights_.decode_layer(l, stream_buffers_[0]));
      NWC_TRY(record_layer(l, &stream_buffers_[0], count));
    } else {
      NWC_ASSIGN_OR_RETURN(const uint32_t slot, stream_->acquire(l));
      Status status = record_layer(l, &stream_buffers_[slot], count);
      if (status.ok()) status = next_submission();
      stream_->release();
      NWC_TRY(status);
    }
  }
  const uint32_t n = model_.hidden_size;
  if (layout_.norms_states()) {
    const LayerOps::Norm norm = norm_of_ends(layout_.final_norm_at, layout_.final_norm_bias_at);
    NWC_TRY(ops_.norm(*batch_, norm, count, {&x_, 0, n}, vectors_, {&normed_, 0, n}));
  } else {
    batch_->copy(x_, 0, normed_, 0, uint64_t{count} * n * sizeof(float));
  }
  return batch_->submit_and_wait();
}

Status ForwardVulkan::logits_of(uint32_t first, uint32_t count, float* out) {
  const uint32_t n = model_.hidden_size, vocab = model_.vocab_size;
  const DeviceRows hidden{&normed_, first * n, n};
  NWC_TRY(batch_->begin());
  batch_->barrier();
  if (plan_.head_resident) {
    const DeviceBuffer& output = model_.tied_embeddings ? embedding_ : head_;
    NWC_TRY(weights_.multiply_output(*batch_, output, count, hidden, {&logits_, 0, vocab}));
  } else if (fused_ != nullptr && coded(layout_.head)) {
    const uint64_t offset = uint64_t{first} * n * sizeof(float);
    const VulkanFusedProduct::Product product{
        layout_.head, count, BufferView(&normed_, offset, normed_.size() - offset), n, &logits_, vocab, false};
    NWC_TRY(fused_->record(*batch_, {&product, 1}));
  } else {
    for (uint32_t begin = 0; begin < vocab; begin += sizes_.head_band_rows) {
      const uint32_t rows = std::min(sizes_.head_band_rows, vocab - begin);
      NWC_TRY(weights_.decode_rows(layout_.head, begin, uint64_t{begin} + rows, head_band_));
      NWC_TRY(ops_.matmul(*batch_, weights_.rows(head_band_, rows, n), count, hidden, {&logits_, begin, vocab}, false));
      if (begin + rows == vocab) break;
      NWC_TRY(batch_->submit_and_wait());
      NWC_TRY(batch_->begin());
      batch_->barrier();
    }
  }
  batch_->barrier();
  const uint64_t bytes = uint64_t{count} * vocab * sizeof(float);
  batch_->copy(logits_, 0, readback_, 0, bytes);
  batch_->barrier();
  NWC_TRY(batch_->submit_and_wait());
  NWC_TRY(readback_.invalidate());
  std::memcpy(out, readback_.mapped().data(), static_cast<size_t>(bytes));
  for (size_t i = 0; i < size_t{count} * vocab && !head_bias_.empty(); ++i) out[i] += head_bias_[i % vocab];
  cap_logits(model_.ends.logit_scale, model_.ends.logit_softcap, out, size_t{count} * vocab);
  return {};
}

Status ForwardVulkan::logits(uint32_t first, uint32_t count, float* out) {
  for (uint32_t done = 0; done < count; done += kDeviceLogitRows) {
    const uint32_t rows = std::min(kDeviceLogitRows, count - done);
    NWC_TRY(logits_of(first + done, rows, out + size_t{done} * model_.vocab_size));
  }
  return {};
}

}  // namespace

uint64_t vulkan_fused_bytes(const NwcFile& file, std::span<const size_t> tensors, uint64_t window_bytes) {
  if (tensors.empty()) return 0;
  VulkanOptions options;
  options.max_window_bytes = window_bytes;
  uint64_t sum = VulkanFusedProduct::max_shared_bytes(file, options);
  for (const size_t tensor : tensors) sum += VulkanFusedProduct::max_tensor_bytes(file, tensor, options);
  return sum;
}

Result<std::unique_ptr<Forward>> create_vulkan_forward(const ForwardInputs& inputs, const Progress& progress) {
  DeviceDecoder* decoder = inputs.decoder.on_device();
  if (decoder == nullptr) {
    return Status(StatusCode::kNoDevice,
                  str_cat(inputs.decoder.name(), " has no Vulkan device that the model could run on"));
  }
  const MemoryPlan& plan = inputs.plan;
  const SessionSizes sizes =
      session_sizes(inputs.file, inputs.layout, inputs.params, *plan.held, plan.context, plan.batch);
  NWC_TRY(LayerOps::check(inputs.layout, decoder->device().info(), sizes, plan.context, plan.batch));
  NWC_TRY(check_layer_ops(decoder->device(), decoder->pipelines(), inputs.layout.model.blocks, plan.held->row_dtype(),
                          inputs.params.kv_dtype));
  IntegerProducts products = IntegerProducts::kFloats;
  if (plan.held->any_integers()) {
    NWC_ASSIGN_OR_RETURN(products,
                         choose_integer_products(decoder->device(), decoder->pipelines(), plan.held->any_that(false),
                                                 plan.held->any_that(true), plan.requantized));
  }
  auto forward = std::make_unique<ForwardVulkan>(inputs, *decoder, products);
  NWC_TRY(forward->allocate(inputs));
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
