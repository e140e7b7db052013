// The forward pass on the CPU: embedding, the steps of each layer (runtime/graph/steps.h), norm, head. The readable
// twin of forward_vulkan.cpp.
#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/fused_product.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/experts_cpu.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/held_product.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/graph/rope.h"

namespace nwc {
namespace {

/// Layers that the system may read from the disk while one is decoded.
constexpr uint32_t kLayersAhead = 2;

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
    explicit Fused(const NwcFile& file) : tables(build_decode_tables(*file.codec())), product(file, tables) {}
    const DecodeTables tables;
    FusedProduct product;
    std::vector<bool> checked;  ///< per tensor
  };
  std::unique_ptr<Fused> fused_;         // kFused, and something is coded
  std::unique_ptr<LayerStream> stream_;  // after the buffers: its thread ends before they do

  uint32_t position_of(uint32_t token) const { return each_ ? position_ : position_ + token; }

  uint32_t position_ = 0;  ///< of the batch at work
  bool each_ = false;      ///< its tokens are of different sequences
};

Status ForwardCpu::allocate(const ForwardInputs& in) {
  sizes_ = session_sizes(file_, layout_, params_, held_, plan_.context, plan_.batch);
  const auto get = [this](Buffer& buffer, uint64_t bytes, const char* name) {
    return buffer.allocate(bytes, &memory_, name);
  };
  NWC_TRY(get(vectors_, sizes_.vectors, "norms and biases"));
  NWC_TRY(get(positions_, sizes_.positions, "the position embeddings"));
  uint64_t resident = 0;
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    layer_at_.push_back(resident);
    resident += resident_layer(l);
  }
  NWC_TRY(get(resident_, resident, "the resident layers"));
  if (streamed_layers(model_, plan_) != 0) {
    for (Buffer& buffer : stream_buffers_) NWC_TRY(get(buffer, sizes_.layer, "a buffer for streamed layers"));
  }
  if (fused_layers(model_, plan_) != 0) NWC_TRY(get(stream_buffers_[0], sizes_.layer, "a buffer for one layer"));
  if (plan_.embedding_resident) NWC_TRY(get(embedding_, sizes_.embedding, "the embedding"));
  if (!plan_.embedding_resident) NWC_TRY(get(row_, sizes_.embedding_row, "an embedding row"));
  if (plan_.head_resident) NWC_TRY(get(head_, sizes_.head, "the output head"));
  if (!plan_.head_resident) NWC_TRY(get(head_band_, sizes_.head_band, "a band of the output head"));
  caches_.resize(params_.sequences);
  for (KvCache& cache : caches_)
    NWC_TRY(cache.allocate(layout_, plan_.context, sizes_.sequence_batch, params_.kv_dtype, &memory_));
  NWC_TRY(get(x_, sizes_.hidden, "the residual stream"));
  NWC_TRY(get(normed_, sizes_.hidden, "the normed hidden states"));
  NWC_TRY(get(branch_, sizes_.hidden, "the branch outputs"));
  NWC_TRY(get(qkv_, sizes_.qkv, "queries, keys and values"));
  NWC_TRY(get(attention_, sizes_.attention, "the attention outputs"));
  NWC_TRY(get(inner_, sizes_.gate_up, "the MLP's activations"));
  NWC_TRY(get(angles_, sizes_.angles, "the rotary angles"));
  NWC_TRY(get(integers_, sizes_.integers, "inputs of products with integers"));
  NWC_TRY(get(scratch_, runner_.num_workers() * sizes_.worker_scratch, "the threads' scratch memory"));
  if (plan_.num_experts == 0) return {};
  experts_ = std::make_unique<ExpertsCpu>(in, source_, product());
  return experts_->allocate(sizes_, &memory_);
}

Status ForwardCpu::load(const Progress& progress) {
  const auto bytes = [](const Buffer& buffer) { return MutableBytes(buffer.data(), buffer.size()); };
  const uint64_t steps = uint64_t{plan_.resident_layers} + 1;
  const auto report = [&](uint64_t done) {
    return progress.report(done, steps) ? Status() : Status(StatusCode::kCancelled, "loading the model was cancelled");
  };
  NWC_TRY(report(0));
  if (embedding_.size() != 0) source_.will_decode(layout_.embedding);
  if (head_.size() != 0) source_.will_decode(layout_.head);
  for (uint32_t l = 0; l < kLayersAhead; ++l) source_.will_decode_layer(l);
  NWC_TRY(source_.decode_vectors(layout_.vectors, vectors_.as<float>()));
  if (const uint32_t position_rows = model_.ends.position_rows; layout_.positions != kNoTensor) {
    const size_t size = size_t{position_rows} * model_.hidden_size * dtype_size(row_dtype_);
    NWC_TRY(source_.decode_rows(layout_.positions, 0, position_rows, MutableBytes(positions_.data(), size)));
  }
  if (embedding_.size() != 0) NWC_TRY(source_.decode_matrix(layout_.embedding, held_.embedding, bytes(embedding_)));
  if (head_.size() != 0) NWC_TRY(source_.decode_matrix(layout_.head, held_.head, bytes(head_)));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    source_.will_decode_layer(l + kLayersAhead);
    NWC_TRY(source_.decode_layer(l, {resident_.data() + layer_at_[l], static_cast<size_t>(resident_layer(l))}));
    if (plan_.num_experts != 0 && plan_.expert_slots == plan_.num_experts) NWC_TRY(experts_->load(l));
    NWC_TRY(report(uint64_t{l} + 2));
  }
  if (plan_.mode == SessionMode::kFused && file_.codec()) {
    fused_ = std::make_unique<Fused>(file_);
    fused_->checked.resize(file_.tensors().size());
  }
  if (streamed_layers(model_, plan_) != 0) {
    NWC_ASSIGN_OR_RETURN(stream_, LayerStream::start(plan_.resident_layers, model_.num_layers,
                                                     [this, bytes](uint32_t layer, uint32_t piece, uint32_t slot) {
                                                       const MutableBytes out = bytes(stream_buffers_[slot]);
                                                       return source_.decode_layer_piece(layer, piece, out);
                                                     }));
    if (experts_ != nullptr) experts_->set_stream(stream_.get());
  }
  return {};
}

void ForwardCpu::widen_row(Dtype dtype, const uint8_t* in, float* out) const {
  const uint32_t n = model_.hidden_size;
  if (dtype == Dtype::kF32) {
    std::memcpy(out, in, size_t{n} * sizeof(float));
  } else if (dtype == Dtype::kF16) {
    kernels_.widen_f16(reinterpret_cast<const uint16_t*>(in), out, n);
  } else {
    for (uint32_t i = 0; i < n; ++i) out[i] = bf16_to_f32(reinterpret_cast<const uint16_t*>(in)[i]);
  }
}

Status ForwardCpu::embed(std::span<const uint32_t> tokens) {
  const uint32_t n = model_.hidden_size;
  const size_t row_bytes = size_t{n} * dtype_size(row_dtype_);
  for (size_t t = 0; t < tokens.size(); ++t) {
    float* out = x_.as<float>() + t * n;
    if (plan_.embedding_resident) {
      if (held_.embedding.integers) {
        integer_row(held_.embedding.form, embedding_.data(), tokens[t], out);
      } else {
        const Dtype dtype = held_.embedding.dtype;
        widen_row(dtype, embedding_.data() + size_t{tokens[t]} * n * dtype_size(dtype), out);
      }
      continue;
    }
    // A row costs the tiles that it lies in: the same token is decoded once per batch.
    const auto earlier = std::find(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(t), tokens[t]);
    const size_t at = static_cast<size_t>(earlier - tokens.begin());
    if (at < t) {
      std::copy_n(x_.as<float>() + at * n, n, out);
    } else {
      NWC_TRY(source_.decode_rows(layout_.embedding, tokens[t], uint64_t{tokens[t]} + 1,
                                  MutableBytes(row_.data(), row_bytes)));
      widen_row(row_dtype_, row_.data(), out);
    }
  }
  const float scale = model_.ends.embedding_scale;
  const size_t numbers = tokens.size() * n;
  if (scale != 1) {
    for (size_t i = 0; i < numbers; ++i) x_.as<float>()[i] *= scale;
  }
  for (size_t t = 0; t < tokens.size() && layout_.positions != kNoTensor; ++t) {
    const size_t at = position_of(static_cast<uint32_t>(t));
    widen_row(row_dtype_, positions_.data() + at * row_bytes, normed_.as<float>());
    float* out = x_.as<float>() + t * n;
    for (uint32_t i = 0; i < n; ++i) out[i] += normed_.as<float>()[i];
  }
  const float* const type = vector(layout_.token_types_at);  // the first row: every token is of type 0
  if (type != nullptr) add_bias(runner_, static_cast<uint32_t>(tokens.size()), n, type, x_.as<float>(), n);
  return {};
}

// out [1][rows] = in [1][cols] times a coded tensor, from its payload.
Status ForwardCpu::fused_multiply(size_t tensor, const float* in, float* out) {
  const TensorRecord& record = file_.tensors()[tensor];
  TensorDecodeOptions options;
  options.cpu = level_;
  options.check_crc = params_.check_crc && !fused_->checked[tensor];
  NWC_TRY(fused_->product.multiply(tensor, 1, {in, static_cast<size_t>(record.cols())},
                                   {out, static_cast<size_t>(record.rows())}, runner_, options));
  fused_->checked[tensor] = true;
  return {};
}

// out [tokens][rows of all] = in [tokens][cols] times the matrices of one product. weights: the layer's, or null:
// decode or multiply each now, for one token.
Status ForwardCpu::multiply(uint32_t layer, Linear linear, const uint8_t* weights, uint32_t tokens, const float* in,
                            size_t stride, float* out) {
  const LayerLayout& at = layout_.layers[layer];
  if (weights != nullptr) {
    product().multiply(held_, layout_, layer, at.linear(linear), weights, tokens, in, stride, out,
                       at.product(linear).rows);
    return {};
  }
  for (const PlacedMatrix& m : at.linear(linear)) {
    if (file_.tensors()[m.tensor].storage == Storage::kCoded) {
      NWC_TRY(fused_multiply(m.tensor, in, out));
    } else {
      const HeldView view{&held_.matrix(layout_, layer, m), stream_buffers_[0].data()};
      NWC_TRY(source_.decode_matrix(m.tensor, *view.held, {stream_buffers_[0].data(), stream_buffers_[0].size()}));
      product().multiply({&view, 1}, 1, in, m.cols, out, m.rows);
    }
    out += m.rows;
  }
  return {};
}

void ForwardCpu::norm(const Step& step, uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t n = model_.hidden_size;
  const NormParams params{block.norm, block.norm_eps, vector(at.vector(step.gain)), vector(at.vector(step.bias))};
  norm_rows(kernels_, runner_, tokens, n, params, rows_of(slot(step.in).as<float>(), n),
            rows_of(slot(step.out).as<float>(), n));
}

void ForwardCpu::norm_queries_and_keys(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const bool whole = block.qk_norm == QkNorm::kWhole;
  float* from = qkv_.as<float>();
  for (const bool keys : {false, true}) {
    const uint32_t width = keys ? block.kv_width() : block.q_width();
    const uint32_t n = whole ? width : block.head_dim, each = width / n;
    const Role role = keys ? Role::kKNorm : Role::kQNorm;
    const NormParams params{block.norm, block.norm_eps, vector(at.vector(role)), nullptr};
    const RowsView rows{from, n, each, this->width(layer, Slot::kQkv)};
    norm_rows(kernels_, runner_, tokens * each, n, params, rows, rows);
    from += width;
  }
}

void ForwardCpu::rotate(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t half = block.rope_dims() / 2, width = this->width(layer, Slot::kQkv);
  const uint32_t rotated = block.num_heads + block.num_kv_heads;  // queries and keys, next to each other
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t) {
    float* heads = qkv_.as<float>() + size_t{t} * width;
    const float* angle = angles_.as<float>() + size_t{t} * rotary_.width() + rotary_.at(layout_.layers[layer].kind);
    for (uint32_t h = 0; h < rotated; ++h) rope_rotate(heads + size_t{h} * block.head_dim, half, angle, angle + half);
    if (block.temperature_beta == 0) return;
    for (uint32_t i = 0; i < block.q_width(); ++i) heads[i] *= angle[2 * half];
  });
}

void ForwardCpu::store_and_attend(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const size_t width = this->width(layer, Slot::kQkv);
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t) {
    const float* key = qkv_.as<float>() + t * width + block.q_width();
    const KvCache& cache = caches_[each_ ? t : 0];
    cache.store(kernels_, layer, position_of(t), key, key + block.kv_width());
  });
  const float* const sinks = vector(layout_.layers[layer].vector(Role::kSinks));
  const size_t scratch = sizes_.worker_scratch / sizeof(float);
  if (!each_) {
    attend(kernels_, runner_, block, caches_[0], layer, position_, tokens, qkv_.as<float>(), width, sinks,
           attention_.as<float>(), scratch_.as<float>(), scratch);
    return;
  }
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t worker) {
    attend(kernels_, *alone_, block, caches_[t], layer, position_, 1, qkv_.as<float>() + t * width, width, sinks,
           attention_.as<float>() + size_t{t} * block.q_width(), scratch_.as<float>() + worker * scratch, scratch);
  });
}

Status ForwardCpu::linear(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  float* const out = (step.accumulate ? branch_ : slot(step.out)).as<float>();
  const uint32_t rows = width(layer, step.out);
  NWC_TRY(multiply(layer, step.linear, weights, tokens, slot(step.in).as<float>(), width(layer, step.in), out));
  const uint32_t bias = layout_.layers[layer].bias(step.linear);
  if (bias != kNoVector) add_bias(runner_, tokens, rows, vector(bias), out, rows);
  if (step.accumulate) add_rows(runner_, tokens, rows, 1, slot(step.out).as<float>(), out);
  return {};
}

Status ForwardCpu::run_step(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  switch (step.kind) {
    case StepKind::kNorm: norm(step, layer, tokens); break;
    case StepKind::kLinear: return linear(step, layer, weights, tokens);
    case StepKind::kQkNorm: norm_queries_and_keys(layer, tokens); break;
    case StepKind::kRotate: rotate(layer, tokens); break;
    case StepKind::kAttend: store_and_attend(layer, tokens); break;
    case StepKind::kActivate:
      activate(kernels_, runner_, tokens, block.dense_width(), block, inner_.as<float>());
      break;
    case StepKind::kRoute: experts_->route(layer, tokens, slot(step.in).as<float>(), vectors_.as<float>()); break;
    case StepKind::kExperts:
      return experts_->run(layer, tokens, slot(step.in).as<float>(), x_.as<float>(), vectors_.as<float>(),
                           step.accumulate, slot(step.out).as<float>());
    case StepKind::kShare:
      experts_->share(layer, tokens, block.dense_width(), width(layer, Slot::kInner), inner_.as<float>());
      break;
    case StepKind::kScale:
      scale_rows(runner_, tokens, model_.hidden_size, vector(layout_.layers[layer].vector(step.gain)),
                 slot(step.in).as<float>());
      break;
    case StepKind::kAdd:
      add_rows(runner_, tokens, model_.hidden_size, step.scale, slot(step.out).as<float>(), slot(step.in).as<float>());
      break;
  }
  return {};
}

Status ForwardCpu::run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  for (const Step& step : layout_.layer_steps(layer)) NWC_TRY(run_step(step, layer, weights, tokens));
  return {};
}

Status ForwardCpu::save_cache(const KeptCache& places, MutableBytes out) {
  caches_[0].save(places, out);
  return {};
}

Status ForwardCpu::load_cache(const KeptCache& places, Bytes in) {
  caches_[0].load(places, in);
  return {};
}

bool ForwardCpu::can_go_back(size_t from, size_t to) const { return caches_[0].holds(layout_, from, to); }

Status ForwardCpu::run_each(std::span<const uint32_t> tokens, uint32_t position) {
  each_ = true;
  position_ = position;
  NWC_TRY(embed(tokens));
  return run_layers(static_cast<uint32_t>(tokens.size()));
}

Status ForwardCpu::run(std::span<const uint32_t> tokens, uint32_t position) {
  each_ = false;
  position_ = position;
  NWC_TRY(embed(tokens));
  return run_layers(static_cast<uint32_t>(tokens.size()));
}

Status ForwardCpu::run_embedded(std::span<const float> x) {
  each_ = false;
  position_ = 0;
  std::copy(x.begin(), x.end(), x_.as<float>());
  return run_layers(static_cast<uint32_t>(x.size() / model_.hidden_size));
}

Status ForwardCpu::run_layers(uint32_t tokens) {
  const LayerStream::Running running(stream_.get());
  const ExpertReads::Running reading(experts_ == nullptr ? nullptr : experts_->reads());
  for (uint32_t t = 0; t < tokens; ++t) {
    rotary_.angles(position_of(t), angles_.as<float>() + size_t{t} * rotary_.width());
  }
  const uint32_t n = model_.hidden_size;
  const BlockSpec& first = model_.blocks.front();
  if (model_.ends.encoder.embedding_norm) {
    const NormParams params{first.norm, first.norm_eps, vector(layout_.embedding_norm_at),
                            vector(layout_.embedding_norm_bias_at)};
    norm_rows(kernels_, runner_, tokens, n, params, rows_of(x_.as<float>(), n), rows_of(x_.as<float>(), n));
  }
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (l < plan_.resident_layers) {
      NWC_TRY(run_layer(l, resident_.data() + layer_at_[l], tokens));
      continue;
    }
    if (plan_.mode == SessionMode::kFused) {
      const Buffer& buffer = stream_buffers_[0];
      if (tokens > 1) {
        source_.will_decode_layer(l + 1);
        NWC_TRY(source_.decode_layer(l, MutableBytes(buffer.data(), buffer.size())));
      }
      NWC_TRY(run_layer(l, tokens > 1 ? buffer.data() : nullptr, tokens));
      continue;
    }
    NWC_ASSIGN_OR_RETURN(const uint32_t slot, stream_->acquire(l));
    const Status status = run_layer(l, stream_buffers_[slot].data(), tokens);
    stream_->release();
    NWC_TRY(status);
  }
  if (!layout_.norms_states()) {
    std::copy_n(x_.as<float>(), size_t{tokens} * n, normed_.as<float>());
    return {};
  }
  const NormParams params{first.norm, first.norm_eps, vector(layout_.final_norm_at),
                          vector(layout_.final_norm_bias_at)};
  norm_rows(kernels_, runner_, tokens, n, params, rows_of(x_.as<float>(), n), rows_of(normed_.as<float>(), n));
  return {};
}

Status ForwardCpu::hidden(uint32_t first, uint32_t count, float* out) {
  const size_t n = model_.hidden_size;
  std::copy_n(normed_.as<float>() + first * n, count * n, out);
  return {};
}

Status ForwardCpu::multiply_by_head(uint32_t first, uint32_t count, float* out) {
  const float* hidden = normed_.as<float>() + size_t{first} * model_.hidden_size;
  if (plan_.head_resident) {
    const LayerStream::Running running(stream_.get());  // decodes the next token's first layers meanwhile
    const HeldView view{&held_.output(layout_), model_.tied_embeddings ? embedding_.data() : head_.data()};
    product().multiply({&view, 1}, count, hidden, model_.hidden_size, out, model_.vocab_size);
    return {};
  }
  if (count == 1 && fused_ != nullptr && file_.tensors()[layout_.head].storage == Storage::kCoded)
    return fused_multiply(layout_.head, hidden, out);
  const uint64_t row_bytes = uint64_t{model_.hidden_size} * dtype_size(row_dtype_);
  for (uint32_t begin = 0; begin < model_.vocab_size; begin += sizes_.head_band_rows) {
    const uint32_t rows = std::min(sizes_.head_band_rows, model_.vocab_size - begin);
    NWC_TRY(source_.decode_rows(layout_.head, begin, uint64_t{begin} + rows,
                                MutableBytes(head_band_.data(), static_cast<size_t>(rows * row_bytes))));
    const WeightView band{head_band_.data(), row_dtype_, rows, model_.hidden_size};
    matmul(kernels_, runner_, count, hidden, model_.hidden_size, band, out + begin, model_.vocab_size,
           scratch_.as<float>());
  }
  return {};
}

Status ForwardCpu::logits(uint32_t first, uint32_t count, float* out) {
  NWC_TRY(multiply_by_head(first, count, out));
  const uint32_t vocab = model_.vocab_size;
  if (layout_.head_bias_at != kNoVector) add_bias(runner_, count, vocab, vector(layout_.head_bias_at), out, vocab);
  cap_logits(model_.ends.logit_scale, model_.ends.logit_softcap, out, size_t{count} * vocab);
  return {};
}

}  // namespace

Result<std::unique_ptr<Forward>> create_cpu_forward(const ForwardInputs& inputs, const Progress& progress) {
  auto forward = std::make_unique<ForwardCpu>(inputs);
  NWC_TRY(forward->allocate(inputs));
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
