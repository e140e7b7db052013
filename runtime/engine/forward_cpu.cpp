#include "runtime/engine/forward_cpu.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/integer_decode.h"

namespace nwc {
namespace {

/// Layers that the system may read from the disk while one is decoded.
constexpr uint32_t kLayersAhead = 2;

}  // namespace

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
  caches_ = std::vector<KvCache>(params_.sequences);
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
  if (plan_.mode == SessionMode::kFused && file_.codec()) fused_ = std::make_unique<Fused>(file_);
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

Result<std::unique_ptr<Forward>> create_cpu_forward(const ForwardInputs& inputs, const Progress& progress) {
  auto forward = std::make_unique<ForwardCpu>(inputs);
  NWC_TRY(forward->allocate(inputs));
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
