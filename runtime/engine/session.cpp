// The forward pass: embedding; per layer RMSNorm, rotary attention over the KV cache, RMSNorm, SwiGLU; norm; head.
#include "runtime/engine/session.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/fused_product.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/rope.h"

namespace nwc {

struct Session::Impl {
  Impl(const NwcFile& f, Decoder& decoder, Runner& r, const SessionParams& p, LlamaLayout l)
      : file(f),
        runner(r),
        params(p),
        layout(std::move(l)),
        model(layout.model),
        level(std::min(p.max_cpu, detect_cpu_level())),
        kernels(kernel_table(level)),
        source(f, decoder, layout, p.weight_dtype, p.check_crc),
        frequencies(rope_frequencies(layout.model)) {}

  Status allocate();
  Status load(const Progress& progress);
  Status embed(std::span<const uint32_t> tokens);
  Status run_layers(uint32_t tokens);
  Status run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens);
  Status multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const uint8_t* weights, uint32_t tokens,
                  const float* in, size_t stride, float* out);
  Status fused_multiply(size_t tensor, const float* in, float* out);
  Status head_logits(uint32_t first, uint32_t count, float* out);

  WeightView view(const uint8_t* weights, uint64_t offset, uint64_t rows, uint64_t cols) const {
    return {weights + offset * dtype_size(params.weight_dtype), params.weight_dtype, static_cast<uint32_t>(rows),
            static_cast<uint32_t>(cols)};
  }
  const float* norm_gain(uint64_t index) const { return norms.as<float>() + index * model.hidden_size; }
  void embedding_row(const uint8_t* row, float* out) const;

  const NwcFile& file;
  Runner& runner;
  const SessionParams params;
  const LlamaLayout layout;
  const ModelRecord& model;
  const CpuLevel level;
  const KernelTable& kernels;
  WeightSource source;
  const std::vector<double> frequencies;
  MemoryPlan plan;
  SessionSizes sizes;
  uint64_t allocated = 0;

  Buffer norms, embedding, head, head_band, row, stream_buffers[2];
  std::vector<Buffer> layers;
  Buffer x, normed, branch, qkv, attention, gate_up, angles, scratch;
  KvCache cache;
  struct Fused {
    explicit Fused(const NwcFile& file) : tables(build_decode_tables(*file.codec())), product(file, tables) {}
    const DecodeTables tables;
    FusedProduct product;
    std::vector<bool> checked;  ///< per tensor
  };
  std::unique_ptr<Fused> fused;         // kFused, and something is coded
  std::unique_ptr<LayerStream> stream;  // after the buffers: its thread ends before they do

  uint32_t position = 0;
  uint32_t last_batch = 0;  ///< rows of `normed` that hold final hidden states
};

Status Session::Impl::allocate() {
  sizes = session_sizes(file, layout, params, plan.context, plan.batch);
  const auto get = [this](Buffer& buffer, uint64_t bytes, const char* name) {
    return buffer.allocate(bytes, &allocated, name);
  };
  NWC_TRY(get(norms, sizes.norms, "the norm gains"));
  for (uint32_t l = 0; l < plan.resident_layers; ++l) {
    layers.emplace_back();
    NWC_TRY(get(layers.back(), sizes.layer, "a resident layer"));
  }
  if (streamed_layers(model, plan) != 0) {
    for (Buffer& buffer : stream_buffers) NWC_TRY(get(buffer, sizes.layer, "a buffer for streamed layers"));
  }
  if (plan.mode == SessionMode::kFused) NWC_TRY(get(stream_buffers[0], sizes.layer, "a buffer for one layer"));
  if (plan.embedding_resident) NWC_TRY(get(embedding, sizes.embedding, "the embedding"));
  if (!plan.embedding_resident) NWC_TRY(get(row, sizes.embedding_row, "an embedding row"));
  if (plan.head_resident) NWC_TRY(get(head, sizes.head, "the output head"));
  if (!plan.head_resident) NWC_TRY(get(head_band, sizes.head_band, "a band of the output head"));
  NWC_TRY(cache.allocate(model, plan.context, params.kv_dtype, &allocated));
  NWC_TRY(get(x, sizes.hidden, "the residual stream"));
  NWC_TRY(get(normed, sizes.hidden, "the normed hidden states"));
  NWC_TRY(get(branch, sizes.hidden, "the branch outputs"));
  NWC_TRY(get(qkv, sizes.qkv, "queries, keys and values"));
  NWC_TRY(get(attention, sizes.attention, "the attention outputs"));
  NWC_TRY(get(gate_up, sizes.gate_up, "the MLP's activations"));
  NWC_TRY(get(angles, sizes.angles, "the rotary angles"));
  return get(scratch, runner.num_workers() * sizes.worker_scratch, "the threads' scratch memory");
}

Status Session::Impl::load(const Progress& progress) {
  const auto bytes = [](const Buffer& buffer) { return MutableBytes(buffer.data(), buffer.size()); };
  const auto matrix = [&](const Buffer& buffer) {
    return MutableBytes(buffer.data(), size_t{model.vocab_size} * model.hidden_size * dtype_size(params.weight_dtype));
  };
  const uint64_t steps = uint64_t{plan.resident_layers} + 1;
  const auto report = [&](uint64_t done) {
    return progress.report(done, steps) ? Status() : Status(StatusCode::kCancelled, "loading the model was cancelled");
  };
  NWC_TRY(report(0));
  NWC_TRY(source.decode_norms(norms.as<float>()));
  if (embedding.size() != 0) NWC_TRY(source.decode_rows(layout.embedding, 0, model.vocab_size, matrix(embedding)));
  if (head.size() != 0) NWC_TRY(source.decode_rows(layout.head, 0, model.vocab_size, matrix(head)));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan.resident_layers; ++l) {
    NWC_TRY(source.decode_layer(l, bytes(layers[l])));
    NWC_TRY(report(uint64_t{l} + 2));
  }
  if (plan.mode == SessionMode::kFused && file.codec()) {
    fused = std::make_unique<Fused>(file);
    fused->checked.resize(file.tensors().size());
  }
  if (streamed_layers(model, plan) != 0) {
    NWC_ASSIGN_OR_RETURN(stream, LayerStream::start(plan.resident_layers, model.num_layers, bytes(stream_buffers[0]),
                                                    bytes(stream_buffers[1]), [this](uint32_t layer, MutableBytes out) {
                                                      return source.decode_layer(layer, out);
                                                    }));
  }
  return {};
}

void Session::Impl::embedding_row(const uint8_t* in, float* out) const {
  const uint32_t n = model.hidden_size;
  if (params.weight_dtype == Dtype::kF32) {
    std::memcpy(out, in, size_t{n} * sizeof(float));
  } else if (params.weight_dtype == Dtype::kF16) {
    kernels.widen_f16(reinterpret_cast<const uint16_t*>(in), out, n);
  } else {
    for (uint32_t i = 0; i < n; ++i) out[i] = bf16_to_f32(reinterpret_cast<const uint16_t*>(in)[i]);
  }
}

Status Session::Impl::embed(std::span<const uint32_t> tokens) {
  const uint32_t n = model.hidden_size;
  const size_t row_bytes = size_t{n} * dtype_size(params.weight_dtype);
  for (size_t t = 0; t < tokens.size(); ++t) {
    float* out = x.as<float>() + t * n;
    if (plan.embedding_resident) {
      embedding_row(embedding.data() + tokens[t] * row_bytes, out);
      continue;
    }
    // A row costs the tiles that it lies in: the same token is decoded once per batch.
    const auto earlier = std::find(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(t), tokens[t]);
    const size_t at = static_cast<size_t>(earlier - tokens.begin());
    if (at < t) {
      std::copy_n(x.as<float>() + at * n, n, out);
    } else {
      NWC_TRY(source.decode_rows(layout.embedding, tokens[t], uint64_t{tokens[t]} + 1,
                                 MutableBytes(row.data(), row_bytes)));
      embedding_row(row.data(), out);
    }
  }
  return {};
}

// out [1][rows] = in [1][cols] times a coded tensor, from its payload.
Status Session::Impl::fused_multiply(size_t tensor, const float* in, float* out) {
  const TensorRecord& record = file.tensors()[tensor];
  TensorDecodeOptions options;
  options.cpu = level;
  options.check_crc = params.check_crc && !fused->checked[tensor];
  NWC_TRY(fused->product.multiply(tensor, 1, {in, static_cast<size_t>(record.cols())},
                                  {out, static_cast<size_t>(record.rows())}, runner, options));
  fused->checked[tensor] = true;
  return {};
}

// out [tokens][rows of all] = in [tokens][cols] times matrices first to last, which have the same input. weights: the
// layer's, or null: decode or multiply each now, for one token.
Status Session::Impl::multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const uint8_t* weights,
                               uint32_t tokens, const float* in, size_t stride, float* out) {
  const uint64_t cols = layout.matrix_cols(first);
  if (weights != nullptr) {
    const uint64_t rows = (layout.matrix_offset(last + 1u) - layout.matrix_offset(first)) / cols;
    matmul(kernels, runner, tokens, in, stride, view(weights, layout.matrix_offset(first), rows, cols), out, rows,
           scratch.as<float>());
    return {};
  }
  for (uint32_t m = first; m <= last; ++m) {
    const size_t tensor = layout.layers[layer].matrix[m];
    const uint64_t rows = layout.matrix_rows(static_cast<LayerMatrix>(m));
    if (file.tensors()[tensor].storage == Storage::kCoded) {
      NWC_TRY(fused_multiply(tensor, in, out));
    } else {
      const MutableBytes bytes(stream_buffers[0].data(),
                               static_cast<size_t>(rows * cols) * dtype_size(params.weight_dtype));
      NWC_TRY(source.decode_rows(tensor, 0, rows, bytes));
      matmul(kernels, runner, 1, in, cols, view(bytes.data(), 0, rows, cols), out, rows, scratch.as<float>());
    }
    out += rows;
  }
  return {};
}

Status Session::Impl::run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  const uint32_t hidden = model.hidden_size, inner = model.intermediate_size;
  const uint32_t half = model.head_dim / 2;
  const uint32_t rotated = model.num_heads + model.num_kv_heads;  // queries and keys, next to each other
  rms_norm(kernels, runner, tokens, hidden, x.as<float>(), norm_gain(2 * uint64_t{layer}), model.rms_norm_eps,
           normed.as<float>());
  NWC_TRY(multiply(layer, kQ, kV, weights, tokens, normed.as<float>(), hidden, qkv.as<float>()));
  const size_t width = layout.qkv_width();
  parallel_for(runner, tokens, [&](uint32_t t, uint32_t) {
    float* heads = qkv.as<float>() + t * width;
    const float* angle = angles.as<float>() + size_t{t} * model.head_dim;
    for (uint32_t h = 0; h < rotated; ++h) rope_rotate(heads + size_t{h} * model.head_dim, half, angle, angle + half);
    const float* key = heads + layout.q_width();
    cache.store(kernels, layer, position + t, key, key + layout.kv_width());
  });
  attend(kernels, runner, model, cache, layer, position, tokens, qkv.as<float>(), width, attention.as<float>(),
         scratch.as<float>(), sizes.worker_scratch / sizeof(float));
  NWC_TRY(multiply(layer, kO, kO, weights, tokens, attention.as<float>(), layout.q_width(), branch.as<float>()));
  add_rows(runner, tokens, hidden, x.as<float>(), branch.as<float>());

  rms_norm(kernels, runner, tokens, hidden, x.as<float>(), norm_gain(2 * uint64_t{layer} + 1), model.rms_norm_eps,
           normed.as<float>());
  NWC_TRY(multiply(layer, kGate, kUp, weights, tokens, normed.as<float>(), hidden, gate_up.as<float>()));
  swiglu(kernels, runner, tokens, inner, gate_up.as<float>());
  NWC_TRY(multiply(layer, kDown, kDown, weights, tokens, gate_up.as<float>(), 2 * size_t{inner}, branch.as<float>()));
  add_rows(runner, tokens, hidden, x.as<float>(), branch.as<float>());
  return {};
}

Status Session::Impl::run_layers(uint32_t tokens) {
  for (uint32_t t = 0; t < tokens; ++t) {
    float* angle = angles.as<float>() + size_t{t} * model.head_dim;
    rope_angles(frequencies, position + t, angle, angle + model.head_dim / 2);
  }
  for (uint32_t l = 0; l < model.num_layers; ++l) {
    if (l < plan.resident_layers) {
      NWC_TRY(run_layer(l, layers[l].data(), tokens));
      continue;
    }
    if (plan.mode == SessionMode::kFused) {
      const Buffer& buffer = stream_buffers[0];
      if (tokens > 1) NWC_TRY(source.decode_layer(l, MutableBytes(buffer.data(), buffer.size())));
      NWC_TRY(run_layer(l, tokens > 1 ? buffer.data() : nullptr, tokens));
      continue;
    }
    Result<const uint8_t*> weights = stream->acquire();
    if (!weights.ok()) return weights.status();
    const Status status = run_layer(l, *weights, tokens);
    stream->release();
    NWC_TRY(status);
  }
  rms_norm(kernels, runner, tokens, model.hidden_size, x.as<float>(), norm_gain(2 * uint64_t{model.num_layers}),
           model.rms_norm_eps, normed.as<float>());
  last_batch = tokens;
  return {};
}

Status Session::Impl::head_logits(uint32_t first, uint32_t count, float* out) {
  const float* hidden = normed.as<float>() + size_t{first} * model.hidden_size;
  const auto multiply_band = [&](const uint8_t* weights, uint32_t begin, uint32_t rows) {
    matmul(kernels, runner, count, hidden, model.hidden_size, view(weights, 0, rows, model.hidden_size), out + begin,
           model.vocab_size, scratch.as<float>());
  };
  if (plan.head_resident) {
    multiply_band(model.tied_embeddings ? embedding.data() : head.data(), 0, model.vocab_size);
    return {};
  }
  if (count == 1 && fused != nullptr && file.tensors()[layout.head].storage == Storage::kCoded)
    return fused_multiply(layout.head, hidden, out);
  const uint64_t row_bytes = uint64_t{model.hidden_size} * dtype_size(params.weight_dtype);
  for (uint32_t begin = 0; begin < model.vocab_size; begin += sizes.head_band_rows) {
    const uint32_t rows = std::min(sizes.head_band_rows, model.vocab_size - begin);
    NWC_TRY(source.decode_rows(layout.head, begin, uint64_t{begin} + rows,
                               MutableBytes(head_band.data(), static_cast<size_t>(rows * row_bytes))));
    multiply_band(head_band.data(), begin, rows);
  }
  return {};
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(const NwcFile& file, Decoder& decoder, Runner& runner,
                                                 const SessionParams& params, const Logger& logger,
                                                 const Progress& progress) {
  NWC_ASSIGN_OR_RETURN(LlamaLayout layout, resolve_llama_layout(file));
  SessionParams actual = params;
  actual.num_threads = runner.num_workers();
  auto impl = std::make_unique<Impl>(file, decoder, runner, actual, std::move(layout));
  NWC_ASSIGN_OR_RETURN(impl->plan, plan_session(file, impl->layout, actual));
  const MemoryPlan& plan = impl->plan;
  logger.log(LogLevel::kInfo, std::string("session: mode ") + session_mode_name(plan.mode) + ", " +
                                  std::to_string(plan.resident_layers) + " of " +
                                  std::to_string(impl->model.num_layers) + " layers resident, context " +
                                  std::to_string(plan.context) + ", batch " + std::to_string(plan.batch) + ", " +
                                  std::to_string(plan.total) + " bytes, kernels " + cpu_level_name(impl->level));
  NWC_TRY(impl->allocate());
  NWC_TRY(impl->load(progress));
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

Status Session::eval(std::span<const uint32_t> tokens, LogitsWanted wanted, std::span<float> logits) {
  Impl& s = *impl_;
  const size_t vocab = s.model.vocab_size;
  if (tokens.empty()) return invalid_argument("no tokens to evaluate");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= vocab) {
      return invalid_argument("token " + std::to_string(tokens[i]) + " at index " + std::to_string(i) +
                              " is out of range: the vocabulary has " + std::to_string(vocab));
    }
  }
  if (tokens.size() > s.plan.context - s.position) {
    return limit_error("the context holds " + std::to_string(s.plan.context) + " tokens, " +
                       std::to_string(s.position) + " are in use: no room for " + std::to_string(tokens.size()) +
                       "; reset, truncate, or create the session with a larger context");
  }
  const size_t rows = wanted == LogitsWanted::kAll ? tokens.size() : wanted == LogitsWanted::kLast ? 1 : 0;
  if (logits.size() < rows * vocab) {
    return Status(StatusCode::kBufferTooSmall,
                  "logits: need " + std::to_string(rows * vocab) + " floats, got " + std::to_string(logits.size()));
  }
  const uint32_t start = s.position;
  const auto pass = [&](std::span<const uint32_t> batch, size_t done) -> Status {
    const uint32_t count = static_cast<uint32_t>(batch.size());
    NWC_TRY(s.embed(batch));
    NWC_TRY(s.run_layers(count));
    if (wanted == LogitsWanted::kAll) NWC_TRY(s.head_logits(0, count, logits.data() + done * vocab));
    if (wanted == LogitsWanted::kLast && done + count == tokens.size()) {
      NWC_TRY(s.head_logits(count - 1, 1, logits.data()));
    }
    return {};
  };
  for (size_t done = 0; done < tokens.size();) {
    const size_t count = std::min<size_t>(s.plan.batch, tokens.size() - done);
    if (Status status = pass(tokens.subspan(done, count), done); !status.ok()) {
      s.position = start;
      s.last_batch = 0;
      return status;
    }
    s.position += static_cast<uint32_t>(count);
    done += count;
  }
  return {};
}

Status Session::logits(uint32_t first, uint32_t count, std::span<float> out) {
  Impl& s = *impl_;
  if (count == 0 || first > s.last_batch || count > s.last_batch - first) {
    return invalid_argument("logits of tokens " + std::to_string(first) + " to " +
                            std::to_string(uint64_t{first} + count) + " wanted, the last batch has " +
                            std::to_string(s.last_batch));
  }
  const size_t need = size_t{count} * s.model.vocab_size;
  if (out.size() < need) {
    return Status(StatusCode::kBufferTooSmall,
                  "logits: need " + std::to_string(need) + " floats, got " + std::to_string(out.size()));
  }
  return s.head_logits(first, count, out.data());
}

Status Session::truncate(uint32_t position) {
  if (position > impl_->position) {
    return invalid_argument("cannot truncate to " + std::to_string(position) + ": the sequence has " +
                            std::to_string(impl_->position) + " tokens");
  }
  impl_->position = position;
  return {};
}

void Session::reset() { impl_->position = 0; }
uint32_t Session::position() const { return impl_->position; }
uint32_t Session::last_batch() const { return impl_->last_batch; }
const ModelRecord& Session::model() const { return impl_->model; }
const MemoryPlan& Session::plan() const { return impl_->plan; }
CpuLevel Session::cpu() const { return impl_->level; }
uint64_t Session::allocated_bytes() const { return impl_->allocated; }

}  // namespace nwc
