// What all forward passes share: checks, the position, batches, and what happens when a device fails.
#include "runtime/engine/session.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/str_cat.h"
#include "runtime/engine/encoder_ends.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/session_state.h"
#include "runtime/engine/weight_type.h"

namespace nwc {

struct Session::Impl {
  Impl(const NwcFile& f, Decoder& d, Runner& r, const SessionParams& p, ModelLayout l, const Logger& g)
      : file(f), decoder(d), runner(r), params(p), wanted(p.integers), layout(std::move(l)), logger(g) {}

  Status start(const Progress& progress);
  bool take_other_form(const Status& why);
  Status start_again();
  Status start_on_cpu(const Status& why);
  template <typename Work>
  Status on_either(Work&& work);
  Status logits(uint32_t first, uint32_t count, float* out) {
    return on_either([&](Forward& f) { return f.logits(first, count, out); });
  }
  void shorten(size_t length) {
    sequence.resize(length);
    go_back(length);
  }
  void go_back(size_t length) {
    // Layers with a window keep the newest positions only: what they have forgotten is passed through them again.
    if (length < cached) cached = forward == nullptr || can_go_back(length) ? length : 0;
    taken_up = std::min(taken_up, cached);
    last_batch = 0;
  }
  /// Of positions in front of those that a state had, layers with a window hold nothing.
  bool can_go_back(size_t length) const {
    const auto has_window = [](const BlockSpec& block) { return block.window != 0; };
    if (length < taken_up && std::any_of(layout.model.blocks.begin(), layout.model.blocks.end(), has_window))
      return false;
    return forward->can_go_back(cached, length);
  }
  Status cancelled(size_t start) const {
    return eval_progress.report(cached - start, sequence.size() - start)
               ? Status()
               : Status(StatusCode::kCancelled, "the evaluation was cancelled");
  }
  Status check_state() const;
  Status check_tokens(std::span<const uint32_t> tokens) const;
  Status load_ends();
  template <typename Work>
  Status encode(uint32_t count, std::span<const uint32_t> ids, std::span<float> hidden, std::span<float> embedding,
                Work&& work);
  uint32_t position() const { return static_cast<uint32_t>(sequence.size()); }
  CpuLevel cpu() const { return std::min(params.max_cpu, detect_cpu_level()); }

  const NwcFile& file;
  Decoder& decoder;
  Runner& runner;
  SessionParams params;         ///< compute: where the forward pass runs now
  const IntegerWeights wanted;  ///< params.integers as they were given
  const ModelLayout layout;
  const Logger logger;
  MemoryPlan plan;
  std::unique_ptr<Forward> forward;
  StatusCode broken = StatusCode::kOk;  ///< why there is no forward pass any more
  HostMemory end_memory;                ///< of the next
  std::unique_ptr<EncoderEnds> ends;    ///< of an encoder
  Progress eval_progress;               ///< of eval()

  std::vector<uint32_t> sequence;
  size_t cached = 0;        ///< of them, the first ones, whose keys and values are in the cache; eval() adds the others
  size_t taken_up = 0;      ///< of the cached ones, those that came with load_state()
  uint32_t last_batch = 0;  ///< the last of the cached ones, whose final hidden states are there
};

namespace {

constexpr char kSideBySide[] = "the session has several sequences, which advance by step() alone";
constexpr char kNoLogits[] = "the model is an encoder, which predicts no tokens: ask for embeddings";

/// The device has failed, or there is none, or it does not do what the model needs: the CPU can.
bool cpu_may_do_it(const Status& status) {
  return device_failed(status) || status.code() == StatusCode::kNoDevice || status.code() == StatusCode::kUnsupported;
}

}  // namespace

// Plans, allocates and loads.
Status Session::Impl::start(const Progress& progress) {
  if (params.compute == Compute::kCpu && !decoder.decodes_integers()) params.integers = IntegerWeights::kNone;
  NWC_ASSIGN_OR_RETURN(plan, plan_session(file, layout, params));
  params.weight_dtype = plan.weight_dtype;
  if (!plan.integers_note.empty())
    logger.log(LogLevel::kWarning,
               str_cat("weights are held as ", dtype_name(plan.weight_dtype), ": ", plan.integers_note));
  if (!plan.weight_warning.empty()) logger.log(LogLevel::kWarning, plan.weight_warning);
  const bool vulkan = params.compute == Compute::kVulkan;
  if (plan.integers != IntegerWeights::kNone) {
    logger.log(LogLevel::kInfo, str_cat("weights: ", info_of(weight_type(plan)).name, ", ",
                                        plan.requantized ? "rounded to 8 bits with a scale for 32 columns of a row"
                                                         : "the codec's integers, exactly",
                                        ", ", plan.weights, " bytes resident"));
  }
  logger.log(LogLevel::kInfo,
             str_cat("session: mode ", session_mode_name(plan.mode), ", ", plan.resident_layers, " of ",
                     layout.model.num_layers, " layers resident, context ", plan.context, ", batch ", plan.batch, ", ",
                     plan.total, " bytes, ", vulkan ? decoder.name().c_str() : cpu_level_name(cpu())));
  const ForwardInputs inputs{file, decoder, runner, params, layout, plan};
  Result<std::unique_ptr<Forward>> made =
      vulkan ? create_vulkan_forward(inputs, progress) : create_cpu_forward(inputs, progress);
  if (take_other_form(made.status())) return start(progress);
  // The device, or a driver's compiler, fails at them.
  if (vulkan && plan.integers != IntegerWeights::kNone && made.status().code() == StatusCode::kUnsupported) {
    logger.log(LogLevel::kWarning, str_cat("weights are not held as integers: ", made.status().message()));
    params.integers = IntegerWeights::kNone;
    return start(progress);
  }
  NWC_TRY(made.status());
  forward = std::move(made).value();
  return ends != nullptr || !layout.model.is_encoder() ? Status() : load_ends();
}

Status Session::Impl::load_ends() {
  WeightSource source(file, decoder, layout, *plan.held, params.check_crc, runner.num_workers());
  auto made = std::make_unique<EncoderEnds>(layout, kernel_table(cpu()), runner);
  end_memory.allocator = params.allocator;
  NWC_TRY(made->load(source, plan.context, &end_memory));
  ends = std::move(made);
  return {};
}

// The room for integers that do not fit their bits follows from the codec's tables, which a file may not keep to. True:
// the session has to start again, with weights in a form of more room.
bool Session::Impl::take_other_form(const Status& why) {
  if (plan.integers == IntegerWeights::kNone || why.code() != StatusCode::kLimit) return false;
  const bool packed = plan.integers == IntegerWeights::kPacked;
  logger.log(LogLevel::kWarning,
             str_cat("weights are not held as ", packed ? "packed integers" : "bytes", ": ", why.message()));
  params.integers = packed ? IntegerWeights::kQ8 : IntegerWeights::kNone;
  return true;
}

// A new forward pass, and what the cache held once more, in batches that end with the last one.
Status Session::Impl::start_again() {
  forward.reset();
  params.context = plan.context;
  params.batch = plan.batch;
  NWC_TRY(start({}));
  const size_t before_last = cached - last_batch;
  for (size_t done = 0; done < cached;) {
    const size_t end = done < before_last ? std::min<size_t>(before_last, done + plan.batch) : cached;
    NWC_TRY(forward->run(std::span(sequence).subspan(done, end - done), static_cast<uint32_t>(done)));
    done = end;
  }
  taken_up = 0;
  return {};
}

// After a device has failed.
Status Session::Impl::start_on_cpu(const Status& why) {
  logger.log(LogLevel::kWarning,
             str_cat("the model runs on the CPU from now on, since ", decoder.name(), " failed: ", why.message()));
  params.compute = Compute::kCpu;
  params.integers = wanted;
  return start_again();
}

// work(forward), and once more with weights in another form where a layer or an expert that was decoded only now does
// not fit its own, or on the CPU if the device fails.
template <typename Work>
Status Session::Impl::on_either(Work&& work) {
  if (forward == nullptr)
    return Status(broken, "the session could not go on after an earlier error: make another session");
  const auto attempt = [&](const Status& started) {
    Status status = started.ok() ? work(*forward) : started;
    while (take_other_form(status)) {
      status = start_again();
      if (status.ok()) status = work(*forward);
    }
    if (forward == nullptr) broken = status.code();
    return status;
  };
  Status status = attempt({});
  if (params.compute == Compute::kCpu || !params.cpu_fallback || !cpu_may_do_it(status)) return status;
  return attempt(start_on_cpu(status));
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(const NwcFile& file, Decoder& decoder, Runner& runner,
                                                 const SessionParams& params, const Logger& logger,
                                                 const Progress& progress) {
  NWC_ASSIGN_OR_RETURN(ModelLayout layout, resolve_file_layout(file));
  SessionParams actual = params;
  actual.num_threads = runner.num_workers();
  auto impl = std::make_unique<Impl>(file, decoder, runner, actual, std::move(layout), logger);
  Status status = impl->start(progress);
  if (actual.compute == Compute::kVulkan && actual.cpu_fallback && cpu_may_do_it(status)) {
    status = impl->start_on_cpu(status);
  }
  NWC_TRY(status);
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

// They exist, and there is room for them.
Status Session::Impl::check_tokens(std::span<const uint32_t> tokens) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= layout.model.vocab_size) {
      return invalid_argument(str_cat("token ", tokens[i], " at index ", i, " is out of range: the vocabulary has ",
                                      layout.model.vocab_size));
    }
  }
  if (tokens.size() > plan.context - position()) {
    return limit_error(str_cat("the context holds ", plan.context, " tokens, ", position(), " are in use: no room for ",
                               tokens.size(), "; reset, truncate, or create the session with a larger context"));
  }
  return {};
}

void Session::set_progress(const Progress& progress) { impl_->eval_progress = progress; }

Status Session::append(uint32_t token) {
  if (impl_->layout.model.is_encoder()) return unsupported(kNoLogits);
  if (impl_->params.sequences != 1) return unsupported(kSideBySide);
  NWC_TRY(impl_->check_tokens({&token, 1}));
  impl_->sequence.push_back(token);
  return {};
}

Status Session::eval(std::span<const uint32_t> tokens, LogitsWanted wanted, std::span<float> logits) {
  Impl& s = *impl_;
  if (s.layout.model.is_encoder()) return unsupported(kNoLogits);
  if (s.params.sequences != 1) return unsupported(kSideBySide);
  const size_t vocab = s.layout.model.vocab_size;
  const size_t start = s.sequence.size(), cached_before = s.cached;
  if (tokens.empty() && cached_before == start) return invalid_argument("no tokens to evaluate");
  NWC_TRY(s.check_tokens(tokens));
  const size_t rows = wanted == LogitsWanted::kAll ? tokens.size() : wanted == LogitsWanted::kLast ? 1 : 0;
  if (logits.size() < rows * vocab) {
    return Status(StatusCode::kBufferTooSmall, str_cat("logits: need ", rows * vocab, " floats, got ", logits.size()));
  }
  s.sequence.insert(s.sequence.end(), tokens.begin(), tokens.end());
  const auto pass = [&](uint32_t count) -> Status {
    const size_t begin = s.cached;
    const std::span batch = std::span<const uint32_t>(s.sequence).subspan(begin, count);
    NWC_TRY(s.cancelled(cached_before));
    NWC_TRY(s.on_either([&](Forward& forward) { return forward.run(batch, static_cast<uint32_t>(begin)); }));
    s.cached += count;
    s.last_batch = count;
    if (wanted == LogitsWanted::kLast && s.cached == s.sequence.size()) return s.logits(count - 1, 1, logits.data());
    const size_t first = std::max(start, begin);  // that was not appended earlier
    if (wanted != LogitsWanted::kAll || first >= s.cached) return {};
    return s.logits(static_cast<uint32_t>(first - begin), static_cast<uint32_t>(s.cached - first),
                    logits.data() + (first - start) * vocab);
  };
  while (s.cached < s.sequence.size()) {
    const size_t left = s.sequence.size() - s.cached;
    if (Status status = pass(static_cast<uint32_t>(std::min<size_t>(s.plan.batch, left))); !status.ok()) {
      s.sequence.resize(start);
      s.go_back(cached_before);
      return status;
    }
  }
  static_cast<void>(s.cancelled(cached_before));  // it is done: there is nothing to cancel
  return {};
}

// The first sequence's tokens stand for the position of all.
Status Session::step(std::span<const uint32_t> tokens, std::span<float> logits) {
  Impl& s = *impl_;
  if (s.layout.model.is_encoder()) return unsupported(kNoLogits);
  const uint32_t count = s.params.sequences;
  if (tokens.size() != count) return invalid_argument(str_cat(tokens.size(), " tokens for ", count, " sequences"));
  for (size_t i = 0; i < tokens.size(); ++i) NWC_TRY(s.check_tokens(tokens.subspan(i, 1)));
  const size_t need = size_t{count} * s.layout.model.vocab_size;
  if (logits.size() < need)
    return Status(StatusCode::kBufferTooSmall, str_cat("logits: need ", need, " floats, got ", logits.size()));
  if (s.forward == nullptr)
    return Status(s.broken, "the session could not go on after an earlier error: make another session");
  NWC_TRY(s.forward->run_each(tokens, s.position()));
  s.last_batch = count;
  NWC_TRY(s.forward->logits(0, count, logits.data()));
  s.sequence.push_back(tokens[0]);
  s.cached = s.sequence.size();
  return {};
}

// work(forward) passes `count` tokens, all of a sequence, through the layers.
template <typename Work>
Status Session::Impl::encode(uint32_t count, std::span<const uint32_t> ids, std::span<float> hidden,
                             std::span<float> embedding, Work&& work) {
  const ModelRecord& m = layout.model;
  const size_t states = size_t{count} * m.hidden_size;
  if (!hidden.empty() && hidden.size() < states) {
    return Status(StatusCode::kBufferTooSmall, str_cat("hidden states: need ", states, " floats, got ", hidden.size()));
  }
  if (!embedding.empty() && embedding.size() < m.embedding_size()) {
    return Status(StatusCode::kBufferTooSmall,
                  str_cat("embedding: need ", m.embedding_size(), " floats, got ", embedding.size()));
  }
  sequence.clear();
  cached = last_batch = 0;
  float* const out = hidden.empty() ? ends->states() : hidden.data();
  const Status passed = on_either([&](Forward& f) {
    Status status = work(f);
    return status.ok() ? f.hidden(0, count, out) : status;
  });
  if (!passed.ok()) return passed;
  if (!embedding.empty()) ends->pool(out, count, ids, embedding.data());
  return {};
}

Status Session::embed(std::span<const uint32_t> tokens, std::span<float> hidden, std::span<float> embedding) {
  Impl& s = *impl_;
  const ModelRecord& m = s.layout.model;
  if (!m.is_encoder()) return unsupported("the model predicts tokens, it is no encoder of texts");
  if (m.ends.encoder.of_images()) return unsupported("the model is an encoder of images, and was given a text");
  if (tokens.empty()) return invalid_argument("no tokens to embed");
  const std::vector<uint32_t> before = std::exchange(s.sequence, {});
  const Status checked = s.check_tokens(tokens);
  if (!checked.ok()) {
    s.sequence = before;
    return checked;
  }
  NWC_TRY(s.encode(static_cast<uint32_t>(tokens.size()), tokens, hidden, embedding,
                   [&](Forward& forward) { return forward.run(tokens, 0); }));
  s.sequence.assign(tokens.begin(), tokens.end());
  s.cached = s.sequence.size();
  s.last_batch = static_cast<uint32_t>(s.cached);
  return {};
}

Result<std::span<const float>> Session::image_states(std::span<const float> pixels) {
  Impl& s = *impl_;
  const ModelRecord& m = s.layout.model;
  const EncoderSpec& e = m.ends.encoder;
  if (!m.is_encoder() || !e.of_images()) return unsupported("the model is no encoder of images");
  if (pixels.size() != s.ends->num_pixels())
    return invalid_argument(str_cat("an image of ", pixels.size(), " numbers, the model takes ", e.channels, " x ",
                                    e.image_height, " x ", e.image_width));
  if (!std::all_of(pixels.begin(), pixels.end(), [](float p) { return std::isfinite(p); }))
    return invalid_argument("a pixel of the image is not a finite number");
  return s.ends->embed_image(pixels);
}

Status Session::embed_image(std::span<const float> pixels, std::span<float> hidden, std::span<float> embedding) {
  Impl& s = *impl_;
  NWC_ASSIGN_OR_RETURN(const std::span<const float> x, image_states(pixels));
  return s.encode(s.ends->num_image_tokens(), {}, hidden, embedding,
                  [&](Forward& forward) { return forward.run_embedded(x); });
}

Status Session::hidden(uint32_t first, uint32_t count, std::span<float> out) {
  Impl& s = *impl_;
  if (count == 0 || first > s.last_batch || count > s.last_batch - first) {
    return invalid_argument(str_cat("hidden states of tokens ", first, " to ", uint64_t{first} + count,
                                    " wanted, the last batch has ", s.last_batch));
  }
  const size_t need = size_t{count} * s.layout.model.hidden_size;
  if (out.size() < need)
    return Status(StatusCode::kBufferTooSmall, str_cat("hidden states: need ", need, " floats, got ", out.size()));
  return s.on_either([&](Forward& f) { return f.hidden(first, count, out.data()); });
}

Status Session::logits(uint32_t first, uint32_t count, std::span<float> out) {
  Impl& s = *impl_;
  if (s.layout.model.is_encoder()) return unsupported(kNoLogits);
  if (count == 0 || first > s.last_batch || count > s.last_batch - first) {
    return invalid_argument(str_cat("logits of tokens ", first, " to ", uint64_t{first} + count,
                                    " wanted, the last batch has ", s.last_batch));
  }
  const size_t need = size_t{count} * s.layout.model.vocab_size;
  if (out.size() < need) {
    return Status(StatusCode::kBufferTooSmall, str_cat("logits: need ", need, " floats, got ", out.size()));
  }
  return s.logits(first, count, out.data());
}

Status Session::truncate(uint32_t position) {
  if (position > impl_->position()) {
    return invalid_argument(
        str_cat("cannot truncate to ", position, ": the sequence has ", impl_->position(), " tokens"));
  }
  impl_->shorten(position);
  return {};
}

void Session::reset() { impl_->shorten(0); }
uint32_t Session::position() const { return impl_->position(); }
uint32_t Session::last_batch() const { return impl_->last_batch; }
Status Session::Impl::check_state() const {
  if (layout.model.is_encoder()) return unsupported("an encoder has no sequence that could go on");
  return params.sequences == 1 ? Status() : unsupported(kSideBySide);
}

Result<uint64_t> Session::state_bytes() const {
  const Impl& s = *impl_;
  NWC_TRY(s.check_state());
  return nwc::state_bytes(s.layout, s.sequence.size(), static_cast<uint32_t>(s.cached), s.params.kv_dtype);
}

Status Session::save_state(MutableBytes out) {
  Impl& s = *impl_;
  NWC_ASSIGN_OR_RETURN(const uint64_t need, state_bytes());
  if (out.size() < need)
    return Status(StatusCode::kBufferTooSmall, str_cat("a state of ", need, " bytes, with room for ", out.size()));
  out = out.first(static_cast<size_t>(need));
  const auto cached = static_cast<uint32_t>(s.cached);
  const MutableBytes cache = begin_state({file_identity(s.file), s.params.kv_dtype, cached, s.sequence, {}}, out);
  NWC_TRY(s.on_either([&](Forward& f) { return f.save_cache({s.layout, cached, s.params.kv_dtype}, cache); }));
  end_state(out);
  return {};
}

Status Session::load_state(Bytes state) {
  Impl& s = *impl_;
  NWC_TRY(s.check_state());
  NWC_ASSIGN_OR_RETURN(const SequenceState taken,
                       parse_state(state, s.layout, file_identity(s.file), s.params.kv_dtype));
  if (taken.tokens.size() > s.plan.context)
    return limit_error(
        str_cat("the state has ", taken.tokens.size(), " tokens, and the session's context ", s.plan.context));
  reset();
  NWC_TRY(s.on_either([&](Forward& f) {
    return f.load_cache({s.layout, taken.cached, s.params.kv_dtype}, taken.cache);
  }));
  s.sequence = taken.tokens;
  s.cached = s.taken_up = taken.cached;
  return {};
}

const ModelRecord& Session::model() const { return impl_->layout.model; }
const MemoryPlan& Session::plan() const { return impl_->plan; }
CpuLevel Session::cpu() const { return impl_->cpu(); }
Compute Session::compute() const { return impl_->params.compute; }
ExpertStats Session::expert_stats() const {
  return impl_->forward == nullptr ? ExpertStats() : impl_->forward->expert_stats();
}
uint64_t Session::allocated_bytes() const {
  return impl_->end_memory.bytes + (impl_->forward == nullptr ? 0 : impl_->forward->allocated_bytes());
}

}  // namespace nwc
