// The forward pass on the CPU: embedding; per layer RMSNorm, rotary attention over the KV cache, RMSNorm, SwiGLU; norm;
// head. The readable twin of forward_vulkan.cpp.
#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/fused_product.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/rope.h"

namespace nwc {
namespace {

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
        source_(file_, in.decoder, layout_, params_.weight_dtype, params_.check_crc, runner_.num_workers()),
        frequencies_(rope_frequencies(model_)) {}

  Status allocate();
  Status load(const Progress& progress);
  Status run(std::span<const uint32_t> tokens, uint32_t position) override;
  Status logits(uint32_t first, uint32_t count, float* out) override;
  uint64_t allocated_bytes() const override { return allocated_; }

 private:
  Status embed(std::span<const uint32_t> tokens);
  Status run_layers(uint32_t tokens);
  Status run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens);
  Status multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const uint8_t* weights, uint32_t tokens,
                  const float* in, size_t stride, float* out);
  Status fused_multiply(size_t tensor, const float* in, float* out);

  WeightView view(const uint8_t* weights, uint64_t offset, uint64_t rows, uint64_t cols) const {
    return {weights + offset * dtype_size(params_.weight_dtype), params_.weight_dtype, static_cast<uint32_t>(rows),
            static_cast<uint32_t>(cols)};
  }
  const float* norm_gain(uint64_t index) const { return norms_.as<float>() + index * model_.hidden_size; }
  void embedding_row(const uint8_t* row, float* out) const;

  const NwcFile& file_;
  Runner& runner_;
  const SessionParams& params_;
  const LlamaLayout& layout_;
  const MemoryPlan& plan_;
  const ModelRecord& model_;
  const CpuLevel level_;
  const KernelTable& kernels_;
  WeightSource source_;
  const std::vector<double> frequencies_;
  SessionSizes sizes_;
  uint64_t allocated_ = 0;

  Buffer norms_, embedding_, head_, head_band_, row_, stream_buffers_[2];
  std::vector<Buffer> layers_;
  Buffer x_, normed_, branch_, qkv_, attention_, gate_up_, angles_, scratch_;
  KvCache cache_;
  struct Fused {
    explicit Fused(const NwcFile& file) : tables(build_decode_tables(*file.codec())), product(file, tables) {}
    const DecodeTables tables;
    FusedProduct product;
    std::vector<bool> checked;  ///< per tensor
  };
  std::unique_ptr<Fused> fused_;         // kFused, and something is coded
  std::unique_ptr<LayerStream> stream_;  // after the buffers: its thread ends before they do

  uint32_t position_ = 0;  ///< of the batch at work
};

Status ForwardCpu::allocate() {
  sizes_ = session_sizes(file_, layout_, params_, plan_.context, plan_.batch);
  const auto get = [this](Buffer& buffer, uint64_t bytes, const char* name) {
    return buffer.allocate(bytes, &allocated_, name);
  };
  NWC_TRY(get(norms_, sizes_.norms, "the norm gains"));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    layers_.emplace_back();
    NWC_TRY(get(layers_.back(), sizes_.layer, "a resident layer"));
  }
  if (streamed_layers(model_, plan_) != 0) {
    for (Buffer& buffer : stream_buffers_) NWC_TRY(get(buffer, sizes_.layer, "a buffer for streamed layers"));
  }
  if (fused_layers(model_, plan_) != 0) NWC_TRY(get(stream_buffers_[0], sizes_.layer, "a buffer for one layer"));
  if (plan_.embedding_resident) NWC_TRY(get(embedding_, sizes_.embedding, "the embedding"));
  if (!plan_.embedding_resident) NWC_TRY(get(row_, sizes_.embedding_row, "an embedding row"));
  if (plan_.head_resident) NWC_TRY(get(head_, sizes_.head, "the output head"));
  if (!plan_.head_resident) NWC_TRY(get(head_band_, sizes_.head_band, "a band of the output head"));
  NWC_TRY(cache_.allocate(model_, plan_.context, params_.kv_dtype, &allocated_));
  NWC_TRY(get(x_, sizes_.hidden, "the residual stream"));
  NWC_TRY(get(normed_, sizes_.hidden, "the normed hidden states"));
  NWC_TRY(get(branch_, sizes_.hidden, "the branch outputs"));
  NWC_TRY(get(qkv_, sizes_.qkv, "queries, keys and values"));
  NWC_TRY(get(attention_, sizes_.attention, "the attention outputs"));
  NWC_TRY(get(gate_up_, sizes_.gate_up, "the MLP's activations"));
  NWC_TRY(get(angles_, sizes_.angles, "the rotary angles"));
  return get(scratch_, runner_.num_workers() * sizes_.worker_scratch, "the threads' scratch memory");
}

Status ForwardCpu::load(const Progress& progress) {
  const auto bytes = [](const Buffer& buffer) { return MutableBytes(buffer.data(), buffer.size()); };
  const auto matrix = [&](const Buffer& buffer) {
    return MutableBytes(buffer.data(),
                        size_t{model_.vocab_size} * model_.hidden_size * dtype_size(params_.weight_dtype));
  };
  const uint64_t steps = uint64_t{plan_.resident_layers} + 1;
  const auto report = [&](uint64_t done) {
    return progress.report(done, steps) ? Status() : Status(StatusCode::kCancelled, "loading the model was cancelled");
  };
  NWC_TRY(report(0));
  NWC_TRY(source_.decode_norms(norms_.as<float>()));
  if (embedding_.size() != 0) NWC_TRY(source_.decode_rows(layout_.embedding, 0, model_.vocab_size, matrix(embedding_)));
  if (head_.size() != 0) NWC_TRY(source_.decode_rows(layout_.head, 0, model_.vocab_size, matrix(head_)));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(source_.decode_layer(l, bytes(layers_[l])));
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
  }
  return {};
}

void ForwardCpu::embedding_row(const uint8_t* in, float* out) const {
  const uint32_t n = model_.hidden_size;
  if (params_.weight_dtype == Dtype::kF32) {
    std::memcpy(out, in, size_t{n} * sizeof(float));
  } else if (params_.weight_dtype == Dtype::kF16) {
    kernels_.widen_f16(reinterpret_cast<const uint16_t*>(in), out, n);
  } else {
    for (uint32_t i = 0; i < n; ++i) out[i] = bf16_to_f32(reinterpret_cast<const uint16_t*>(in)[i]);
  }
}

Status ForwardCpu::embed(std::span<const uint32_t> tokens) {
  const uint32_t n = model_.hidden_size;
  const size_t row_bytes = size_t{n} * dtype_size(params_.weight_dtype);
  for (size_t t = 0; t < tokens.size(); ++t) {
    float* out = x_.as<float>() + t * n;
    if (plan_.embedding_resident) {
      embedding_row(embedding_.data() + tokens[t] * row_bytes, out);
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
      embedding_row(row_.data(), out);
    }
  }
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

// out [tokens][rows of all] = in [tokens][cols] times matrices first to last, which have the same input. weights: the
// layer's, or null: decode or multiply each now, for one token.
Status ForwardCpu::multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const uint8_t* weights,
                            uint32_t tokens, const float* in, size_t stride, float* out) {
  const uint64_t cols = layout_.matrix_cols(first);
  if (weights != nullptr) {
    const uint64_t rows = (layout_.matrix_offset(last + 1u) - layout_.matrix_offset(first)) / cols;
    matmul(kernels_, runner_, tokens, in, stride, view(weights, layout_.matrix_offset(first), rows, cols), out, rows,
           scratch_.as<float>());
    return {};
  }
  for (uint32_t m = first; m <= last; ++m) {
    const size_t tensor = layout_.layers[layer].matrix[m];
    const uint64_t rows = layout_.matrix_rows(static_cast<LayerMatrix>(m));
    if (file_.tensors()[tensor].storage == Storage::kCoded) {
      NWC_TRY(fused_multiply(tensor, in, out));
    } else {
      const MutableBytes bytes(stream_buffers_[0].data(),
                               static_cast<size_t>(rows * cols) * dtype_size(params_.weight_dtype));
      NWC_TRY(source_.decode_rows(tensor, 0, rows, bytes));
      matmul(kernels_, runner_, 1, in, cols, view(bytes.data(), 0, rows, cols), out, rows, scratch_.as<float>());
    }
    out += rows;
  }
  return {};
}

Status ForwardCpu::run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  const uint32_t hidden = model_.hidden_size, inner = model_.intermediate_size;
  const uint32_t half = model_.head_dim / 2;
  const uint32_t rotated = model_.num_heads + model_.num_kv_heads;  // queries and keys, next to each other
  rms_norm(kernels_, runner_, tokens, hidden, x_.as<float>(), norm_gain(2 * uint64_t{layer}), model_.rms_norm_eps,
           normed_.as<float>());
  NWC_TRY(multiply(layer, kQ, kV, weights, tokens, normed_.as<float>(), hidden, qkv_.as<float>()));
  const size_t width = layout_.qkv_width();
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t) {
    float* heads = qkv_.as<float>() + t * width;
    const float* angle = angles_.as<float>() + size_t{t} * model_.head_dim;
    for (uint32_t h = 0; h < rotated; ++h) rope_rotate(heads + size_t{h} * model_.head_dim, half, angle, angle + half);
    const float* key = heads + layout_.q_width();
    cache_.store(kernels_, layer, position_ + t, key, key + layout_.kv_width());
  });
  attend(kernels_, runner_, model_, cache_, layer, position_, tokens, qkv_.as<float>(), width, attention_.as<float>(),
         scratch_.as<float>(), sizes_.worker_scratch / sizeof(float));
  NWC_TRY(multiply(layer, kO, kO, weights, tokens, attention_.as<float>(), layout_.q_width(), branch_.as<float>()));
  add_rows(runner_, tokens, hidden, x_.as<float>(), branch_.as<float>());

  rms_norm(kernels_, runner_, tokens, hidden, x_.as<float>(), norm_gain(2 * uint64_t{layer} + 1), model_.rms_norm_eps,
           normed_.as<float>());
  NWC_TRY(multiply(layer, kGate, kUp, weights, tokens, normed_.as<float>(), hidden, gate_up_.as<float>()));
  swiglu(kernels_, runner_, tokens, inner, gate_up_.as<float>());
  NWC_TRY(multiply(layer, kDown, kDown, weights, tokens, gate_up_.as<float>(), 2 * size_t{inner}, branch_.as<float>()));
  add_rows(runner_, tokens, hidden, x_.as<float>(), branch_.as<float>());
  return {};
}

Status ForwardCpu::run(std::span<const uint32_t> tokens, uint32_t position) {
  position_ = position;
  NWC_TRY(embed(tokens));
  return run_layers(static_cast<uint32_t>(tokens.size()));
}

Status ForwardCpu::run_layers(uint32_t tokens) {
  const LayerStream::Running running(stream_.get());
  for (uint32_t t = 0; t < tokens; ++t) {
    float* angle = angles_.as<float>() + size_t{t} * model_.head_dim;
    rope_angles(frequencies_, position_ + t, angle, angle + model_.head_dim / 2);
  }
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (l < plan_.resident_layers) {
      NWC_TRY(run_layer(l, layers_[l].data(), tokens));
      continue;
    }
    if (plan_.mode == SessionMode::kFused) {
      const Buffer& buffer = stream_buffers_[0];
      if (tokens > 1) NWC_TRY(source_.decode_layer(l, MutableBytes(buffer.data(), buffer.size())));
      NWC_TRY(run_layer(l, tokens > 1 ? buffer.data() : nullptr, tokens));
      continue;
    }
    NWC_ASSIGN_OR_RETURN(const uint32_t slot, stream_->acquire(l));
    const Status status = run_layer(l, stream_buffers_[slot].data(), tokens);
    stream_->release();
    NWC_TRY(status);
  }
  rms_norm(kernels_, runner_, tokens, model_.hidden_size, x_.as<float>(), norm_gain(2 * uint64_t{model_.num_layers}),
           model_.rms_norm_eps, normed_.as<float>());
  return {};
}

Status ForwardCpu::logits(uint32_t first, uint32_t count, float* out) {
  const float* hidden = normed_.as<float>() + size_t{first} * model_.hidden_size;
  const auto multiply_band = [&](const uint8_t* weights, uint32_t begin, uint32_t rows) {
    matmul(kernels_, runner_, count, hidden, model_.hidden_size, view(weights, 0, rows, model_.hidden_size),
           out + begin, model_.vocab_size, scratch_.as<float>());
  };
  if (plan_.head_resident) {
    const LayerStream::Running running(stream_.get());  // decodes the next token's first layers meanwhile
    multiply_band(model_.tied_embeddings ? embedding_.data() : head_.data(), 0, model_.vocab_size);
    return {};
  }
  if (count == 1 && fused_ != nullptr && file_.tensors()[layout_.head].storage == Storage::kCoded)
    return fused_multiply(layout_.head, hidden, out);
  const uint64_t row_bytes = uint64_t{model_.hidden_size} * dtype_size(params_.weight_dtype);
  for (uint32_t begin = 0; begin < model_.vocab_size; begin += sizes_.head_band_rows) {
    const uint32_t rows = std::min(sizes_.head_band_rows, model_.vocab_size - begin);
    NWC_TRY(source_.decode_rows(layout_.head, begin, uint64_t{begin} + rows,
                                MutableBytes(head_band_.data(), static_cast<size_t>(rows * row_bytes))));
    multiply_band(head_band_.data(), begin, rows);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Forward>> create_cpu_forward(const ForwardInputs& inputs, const Progress& progress) {
  auto forward = std::make_unique<ForwardCpu>(inputs);
  NWC_TRY(forward->allocate());
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
