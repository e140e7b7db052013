// nwc_session: plan, evaluation, generation.
#include <algorithm>
#include <cstdlib>
#include <thread>

#include "runtime/base/str_cat.h"
#include "runtime/c_api/session_plan.h"
#include "runtime/engine/generate.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/session.h"
#include "runtime/engine/weight_type.h"
#include "runtime/model/tokenizer.h"

// Members are destroyed last to first: session and decoder go before the runners and the file that they use.
struct nwc_session {
  std::shared_ptr<const nwc::c_api::ModelState> state;
  nwc::c_api::LogTarget log;
  std::unique_ptr<nwc::Runner> decode_runner;  // null where the caller's runner serves both
  std::unique_ptr<nwc::Runner> compute_runner;
  std::unique_ptr<nwc::Decoder> decoder;
  std::unique_ptr<nwc::Session> session;
  nwc::c_api::ProgressTarget progress;  // of evaluations
  mutable nwc::c_api::ErrorStore errors;
};

namespace nwc::c_api {
namespace {

static_assert(NWC_STOP_MAX_TOKENS == static_cast<uint32_t>(StopReason::kMaxTokens) &&
              NWC_STOP_EOS == static_cast<uint32_t>(StopReason::kEos) &&
              NWC_STOP_CONTEXT_FULL == static_cast<uint32_t>(StopReason::kContextFull) &&
              NWC_STOP_CALLBACK == static_cast<uint32_t>(StopReason::kCallback) &&
              NWC_STOP_STRING == static_cast<uint32_t>(StopReason::kStopString));
static_assert(NWC_WEIGHTS_CACHED == static_cast<uint32_t>(SessionMode::kCached) &&
              NWC_WEIGHTS_FUSED == static_cast<uint32_t>(SessionMode::kFused) &&
              NWC_WEIGHTS_STREAMED == static_cast<uint32_t>(SessionMode::kStreamed) &&
              NWC_WEIGHTS_RESIDENT == static_cast<uint32_t>(SessionMode::kResident));

static_assert(NWC_WEIGHT_CHOICE_ASKED == static_cast<uint32_t>(WeightChoice::kAsked) &&
              NWC_WEIGHT_CHOICE_NO_INTEGERS == static_cast<uint32_t>(WeightChoice::kNoIntegers) &&
              NWC_WEIGHT_CHOICE_ON_DEVICE == static_cast<uint32_t>(WeightChoice::kOnDevice) &&
              NWC_WEIGHT_CHOICE_SMALLER == static_cast<uint32_t>(WeightChoice::kSmaller) &&
              NWC_WEIGHT_CHOICE_NOT_MEASURED == static_cast<uint32_t>(WeightChoice::kNotMeasured) &&
              NWC_WEIGHT_CHOICE_FASTER == static_cast<uint32_t>(WeightChoice::kFaster));
static_assert(NWC_PRECISION_DEFAULT == static_cast<uint32_t>(WeightType::kAuto) &&
              NWC_PRECISION_F32 == static_cast<uint32_t>(WeightType::kF32) &&
              NWC_PRECISION_F16 == static_cast<uint32_t>(WeightType::kF16) &&
              NWC_PRECISION_BF16 == static_cast<uint32_t>(WeightType::kBf16) &&
              NWC_PRECISION_Q8 == static_cast<uint32_t>(WeightType::kQ8) &&
              NWC_PRECISION_PACKED == static_cast<uint32_t>(WeightType::kPacked) &&
              kNumWeightTypes == NWC_PRECISION_PACKED + 1);

Status no_such(const char* field, nwc_precision precision) {
  return invalid_argument(str_cat(field, " ", precision, " does not exist"));
}

/// Where layers will be computed, as far as can be said before a device is opened.
Compute expected_compute(const nwc_session_params& p) {
  if (p.backend == NWC_BACKEND_CPU) return Compute::kCpu;
  if (p.backend == NWC_BACKEND_VULKAN || p.vulkan != nullptr) return Compute::kVulkan;
  for (const VulkanDeviceInfo& device : list_vulkan_devices()) {
    const bool named = p.device_name == nullptr || device.name.find(p.device_name) != std::string::npos;
    if (device.usable && device.type != VulkanDeviceType::kCpu && named) return Compute::kVulkan;
  }
  return Compute::kCpu;
}

/// num_threads: workers of the runner that computes.
Result<SessionParams> session_params(const nwc_session_params& p, uint32_t num_threads) {
  NWC_TRY(check_backend(backend_of(p)));
  if (p.allocator != nullptr && (p.allocator->allocate == nullptr || p.allocator->release == nullptr))
    return null_argument("nwc_session_params.allocator: allocate or release");
  if (p.mode > NWC_WEIGHTS_FUSED) return invalid_argument(str_cat("mode ", p.mode, " does not exist"));
  if (p.reserved != 0) return invalid_argument("nwc_session_params.reserved is not 0");
  SessionParams out;
  out.compute = expected_compute(p);
  out.cpu_fallback = p.backend == NWC_BACKEND_AUTO;
  out.context = p.context;
  out.mode = static_cast<SessionMode>(p.mode);
  out.memory_budget_bytes = p.memory_budget_bytes;
  out.device_window_bytes = window_bytes_within(p.memory_budget_bytes);
  if (p.weight_precision >= kNumWeightTypes) return no_such("weight_precision", p.weight_precision);
  ask_for(static_cast<WeightType>(p.weight_precision), &out);
  if (p.kv_precision > NWC_PRECISION_BF16) return no_such("kv_precision", p.kv_precision);
  out.kv_dtype = kWeightTypes[p.kv_precision].floats;
  out.batch = p.batch;
  out.num_threads = num_threads;
  out.check_crc = p.skip_checksums == 0;
  out.file_in_memory = p.count_file != 0;
  if (p.allocator != nullptr) out.allocator = {p.allocator->user, p.allocator->allocate, p.allocator->release};
  return out;
}

/// Stored bytes of what is decoded again for every batch: the streamed blocks and, if it does not stay, the head.
uint64_t streamed_bytes(const NwcFile& file, const MemoryPlan& plan) {
  const auto size_of = [&](const std::string& name) -> uint64_t {
    const std::optional<size_t> tensor = file.find(name);
    return tensor ? file.tensors()[*tensor].size : 0;
  };
  uint64_t bytes = 0;
  const std::string prefix = "model.layers.";
  for (const TensorRecord& t : file.tensors()) {
    if (t.name.compare(0, prefix.size(), prefix) != 0) continue;
    const uint64_t layer = std::strtoull(t.name.c_str() + prefix.size(), nullptr, 10);
    if (layer >= plan.resident_layers) bytes += t.size;
  }
  if (!plan.head_resident)
    bytes += size_of(file.model()->tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  return bytes;
}

nwc_session_plan to_c(const NwcFile& file, const MemoryPlan& plan) {
  nwc_session_plan out{};
  out.mode = static_cast<nwc_weight_mode>(plan.mode);
  out.context = plan.context;
  out.batch = plan.batch;
  out.num_layers = file.model()->num_layers;
  out.num_resident_layers = plan.resident_layers;
  out.embedding_resident = plan.embedding_resident ? 1 : 0;
  out.head_resident = plan.head_resident ? 1 : 0;
  out.weight_bytes = plan.weights;
  out.stream_buffer_bytes = plan.layer_buffers;
  out.kv_cache_bytes = plan.kv_cache;
  out.activation_bytes = plan.activations;
  out.decoder_bytes = plan.decoder_scratch;
  out.file_bytes = plan.compressed_file;
  out.total_bytes = plan.total;
  out.streamed_bytes_per_batch = streamed_bytes(file, plan);
  out.needed_resident_bytes = plan.needed_resident;
  out.needed_streamed_bytes = plan.needed_streamed;
  out.needed_fused_bytes = plan.needed_fused;
  out.weight_precision = static_cast<nwc_precision>(weight_type(plan));
  out.weights_requantized = plan.requantized ? 1 : 0;
  out.weight_choice = static_cast<nwc_weight_choice>(plan.choice);
  out.f16_weight_bytes = plan.f16_bytes;
  out.q8_weight_bytes = plan.q8_bytes;
  out.packed_weight_bytes = plan.packed_bytes;
  out.q8_weights_per_second = plan.q8_per_second;
  out.packed_weights_per_second = plan.packed_per_second;
  out.num_experts = plan.num_experts;
  out.num_expert_slots = plan.expert_slots;
  return out;
}

}  // namespace

Result<PlannedSession> plan_of(const NwcFile& file, const nwc_session_params& p, Runner* runner) {
  const uint32_t num_threads = runner != nullptr     ? runner->num_workers()
                               : p.runner != nullptr ? p.runner->num_workers
                               : p.num_threads != 0  ? p.num_threads
                                                     : std::max(1u, std::thread::hardware_concurrency());
  PlannedSession out;
  NWC_ASSIGN_OR_RETURN(out.params, session_params(p, num_threads));
  NWC_ASSIGN_OR_RETURN(out.plan, plan_session(file, out.params));
  out.params.forms = out.plan.forms;
  if (out.plan.choice != WeightChoice::kNotMeasured) return out;
  // Less than the session will take, and free again before that.
  const uint64_t bytes = std::min(out.plan.q8_bytes, out.plan.weights);
  std::unique_ptr<Runner> own;
  if (runner == nullptr) {
    NWC_ASSIGN_OR_RETURN(own, create_runner(p.runner, p.num_threads));
    runner = own.get();
  }
  const CpuLevel level = std::min(out.params.max_cpu, detect_cpu_level());
  out.params.integer_rates = measured_integer_rates(level, *runner, bytes);
  NWC_ASSIGN_OR_RETURN(out.plan, plan_session(file, out.params));
  return out;
}

namespace {

Result<SamplerParams> sampler_params(const nwc_generate_params& p) {
  if (p.reserved != 0) return invalid_argument("nwc_generate_params.reserved is not 0");
  SamplerParams out;
  out.temperature = p.temperature;
  out.top_k = p.top_k;
  out.top_p = p.top_p == 0 ? 1.0f : p.top_p;
  out.seed = p.seed;
  out.min_p = p.min_p;
  out.repetition = p.repetition_penalty == 0 ? 1.0f : p.repetition_penalty;
  out.presence = p.presence_penalty;
  out.frequency = p.frequency_penalty;
  return out;
}

/// The stop strings that are texts; those that spell out a control token go to *stop_tokens.
Result<StopStrings> stop_strings(const nwc_generate_params& p, const Tokenizer* tokenizer,
                                 std::vector<uint32_t>* stop_tokens) {
  if (p.num_stop_strings != 0 && p.stop_strings == nullptr) return null_argument("stop_strings");
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < p.num_stop_strings; ++i) {
    if (p.stop_strings[i] == nullptr) return null_argument("stop_strings[]");
    if (tokenizer == nullptr) return unsupported("stop strings need a tokenizer, which the file does not have");
    const std::string_view text = p.stop_strings[i];
    const std::vector<TokenizerRecord::Token>& tokens = tokenizer->record().tokens;
    const auto control = std::find_if(tokens.begin(), tokens.end(), [&](const TokenizerRecord::Token& t) {
      return t.type == TokenType::kControl && t.bytes == text;
    });
    if (control == tokens.end() || text.empty()) {
      texts.emplace_back(text);
    } else {
      stop_tokens->push_back(static_cast<uint32_t>(control - tokens.begin()));
    }
  }
  return StopStrings::create(std::move(texts));
}

}  // namespace
}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

const char* nwc_session_precision_string(nwc_precision precision) {
  return precision < kNumWeightTypes ? kWeightTypes[precision].name : "?";
}

nwc_status nwc_session_make_plan(const nwc_model* model, const nwc_session_params* params,
                                 const nwc_error_detail* error, nwc_session_plan* out_plan) {
  return make(error, [&]() -> Status {
    if (model == nullptr) return null_argument("model");
    nwc_session_params p;
    NWC_TRY(read_struct(params, "nwc_session_params", &p));
    NWC_ASSIGN_OR_RETURN(const PlannedSession planned, plan_of(model->state->file(), p, nullptr));
    return write_struct(to_c(model->state->file(), planned.plan), "nwc_session_plan", out_plan);
  });
}

nwc_status nwc_session_create(const nwc_model* model, const nwc_session_params* params, nwc_progress_callback progress,
                              void* progress_user, const nwc_error_detail* error, nwc_session** out_session) {
  return make(error, [&]() -> Status {
    if (model == nullptr) return null_argument("model");
    if (out_session == nullptr) return null_argument("out_session");
    nwc_session_params p;
    NWC_TRY(read_struct(params, "nwc_session_params", &p));
    const NwcFile& file = model->state->file();
    auto s = std::make_unique<nwc_session>();
    s->state = model->state;
    s->log = {p.log, p.log_user};
    NWC_ASSIGN_OR_RETURN(s->compute_runner, create_runner(p.runner, p.num_threads));
    // A plan that does not fit ends here, before a device is touched or a second set of threads started.
    NWC_ASSIGN_OR_RETURN(PlannedSession planned, plan_of(file, p, s->compute_runner.get()));
    SessionParams& internal = planned.params;
    const bool streams = streamed_layers(*file.model(), planned.plan) != 0;
    if (streams && p.runner == nullptr) s->decode_runner = make_thread_pool(p.num_threads);
    Runner& decode_runner = s->decode_runner == nullptr ? *s->compute_runner : *s->decode_runner;
    NWC_ASSIGN_OR_RETURN(s->decoder, create_decoder(file, decode_runner, backend_of(p), s->log.logger()));
    if (s->decoder->on_device() == nullptr) internal.compute = Compute::kCpu;
    const ProgressTarget target{progress, progress_user};
    NWC_ASSIGN_OR_RETURN(s->session, Session::create(file, *s->decoder, *s->compute_runner, internal, s->log.logger(),
                                                     target.progress()));
    *out_session = s.release();
    return {};
  });
}

void nwc_session_destroy(nwc_session* session) { delete session; }

const char* nwc_session_last_error(const nwc_session* session) {
  return session == nullptr ? "" : session->errors.get();
}

const char* nwc_session_name(const nwc_session* session) {
  return session == nullptr ? "" : session->decoder->name().c_str();
}

nwc_status nwc_session_get_plan(const nwc_session* session, nwc_session_plan* out_plan) {
  return call(session, [&](const nwc_session& s) {
    return write_struct(to_c(s.state->file(), s.session->plan()), "nwc_session_plan", out_plan);
  });
}

nwc_status nwc_session_get_expert_stats(const nwc_session* session, nwc_expert_stats* out_stats) {
  return call(session, [&](const nwc_session& s) {
    const ExpertStats stats = s.session->expert_stats();
    nwc_expert_stats out{};
    out.hits = stats.hits;
    out.misses = stats.misses;
    out.bytes_read = stats.bytes_read;
    out.stall_seconds = stats.stall_seconds;
    out.read_seconds = stats.read_seconds;
    out.predicted = stats.predicted;
    out.predicted_used = stats.predicted_used;
    return write_struct(out, "nwc_expert_stats", out_stats);
  });
}

uint32_t nwc_session_position(const nwc_session* session) {
  return session == nullptr ? 0 : session->session->position();
}

nwc_status nwc_session_truncate(nwc_session* session, uint32_t position) {
  return call(session, [&](nwc_session& s) { return s.session->truncate(position); });
}

nwc_status nwc_session_state_size(const nwc_session* session, size_t* out_size_bytes) {
  return call(session, [&](const nwc_session& s) -> Status {
    if (out_size_bytes == nullptr) return null_argument("out_size_bytes");
    NWC_ASSIGN_OR_RETURN(const uint64_t bytes, s.session->state_bytes());
    if (bytes > SIZE_MAX) return limit_error("the state is larger than this machine's memory could be");
    *out_size_bytes = static_cast<size_t>(bytes);
    return {};
  });
}

nwc_status nwc_session_save_state(nwc_session* session, void* out_state, size_t capacity_bytes) {
  return call(session, [&](nwc_session& s) -> Status {
    if (out_state == nullptr) return null_argument("out_state");
    return s.session->save_state({static_cast<uint8_t*>(out_state), capacity_bytes});
  });
}

nwc_status nwc_session_load_state(nwc_session* session, const void* state, size_t size_bytes) {
  return call(session, [&](nwc_session& s) -> Status {
    if (state == nullptr) return null_argument("state");
    return s.session->load_state({static_cast<const uint8_t*>(state), size_bytes});
  });
}

nwc_status nwc_session_set_progress(nwc_session* session, nwc_progress_callback progress, void* progress_user) {
  return call(session, [&](nwc_session& s) -> Status {
    s.progress = {progress, progress_user};
    s.session->set_progress(s.progress.progress());
    return {};
  });
}

nwc_status nwc_session_eval(nwc_session* session, const uint32_t* tokens, size_t num_tokens, nwc_logits which,
                            float* out_logits, size_t capacity) {
  return call(session, [&](nwc_session& s) -> Status {
    if (tokens == nullptr) return null_argument("tokens");
    if (num_tokens == 0) return invalid_argument("num_tokens is 0: give at least one token");
    if (which > NWC_LOGITS_ALL) return invalid_argument(str_cat("which ", which, " does not exist"));
    if (out_logits == nullptr && which != NWC_LOGITS_NONE) return null_argument("out_logits");
    const LogitsWanted wanted = which == NWC_LOGITS_NONE   ? LogitsWanted::kNone
                                : which == NWC_LOGITS_LAST ? LogitsWanted::kLast
                                                           : LogitsWanted::kAll;
    const std::span<float> logits = which == NWC_LOGITS_NONE ? std::span<float>() : std::span(out_logits, capacity);
    return s.session->eval(std::span(tokens, num_tokens), wanted, logits);
  });
}

namespace {

/// Empty where nothing is wanted.
Result<std::span<float>> room(float* out, size_t capacity) {
  if (out == nullptr) return std::span<float>();
  if (capacity == 0) return Status(StatusCode::kBufferTooSmall, "a buffer has room for 0 floats; NULL leaves it out");
  return std::span(out, capacity);
}

}  // namespace

nwc_status nwc_session_embed(nwc_session* session, const uint32_t* tokens, size_t num_tokens, float* out_hidden,
                             size_t hidden_capacity, float* out_embedding, size_t embedding_capacity) {
  return call(session, [&](nwc_session& s) -> Status {
    if (tokens == nullptr) return null_argument("tokens");
    NWC_ASSIGN_OR_RETURN(const std::span<float> hidden, room(out_hidden, hidden_capacity));
    NWC_ASSIGN_OR_RETURN(const std::span<float> embedding, room(out_embedding, embedding_capacity));
    return s.session->embed(std::span(tokens, num_tokens), hidden, embedding);
  });
}

nwc_status nwc_session_embed_image(nwc_session* session, const float* pixels, size_t num_pixels, float* out_hidden,
                                   size_t hidden_capacity, float* out_embedding, size_t embedding_capacity) {
  return call(session, [&](nwc_session& s) -> Status {
    if (pixels == nullptr) return null_argument("pixels");
    NWC_ASSIGN_OR_RETURN(const std::span<float> hidden, room(out_hidden, hidden_capacity));
    NWC_ASSIGN_OR_RETURN(const std::span<float> embedding, room(out_embedding, embedding_capacity));
    return s.session->embed_image(std::span(pixels, num_pixels), hidden, embedding);
  });
}

nwc_status nwc_session_hidden(nwc_session* session, uint32_t first, uint32_t count, float* out_hidden,
                              size_t capacity) {
  return call(session, [&](nwc_session& s) -> Status {
    if (out_hidden == nullptr) return null_argument("out_hidden");
    return s.session->hidden(first, count, std::span(out_hidden, capacity));
  });
}

nwc_status nwc_session_generate(nwc_session* session, const uint32_t* prompt, size_t num_prompt,
                                const nwc_generate_params* params, nwc_token_callback callback, void* callback_user,
                                nwc_stop_reason* out_stop_reason) {
  return call(session, [&](nwc_session& s) -> Status {
    if (prompt == nullptr || num_prompt == 0) return invalid_argument("prompt is empty: give at least one token");
    if (callback == nullptr) return null_argument("callback");
    nwc_generate_params p;
    NWC_TRY(read_struct(params, "nwc_generate_params", &p));
    NWC_ASSIGN_OR_RETURN(const SamplerParams sampling, sampler_params(p));
    NWC_ASSIGN_OR_RETURN(Sampler sampler, Sampler::create(sampling));
    GenerateParams generation;
    generation.max_tokens = p.max_tokens == 0 ? UINT32_MAX : p.max_tokens;
    generation.stop_at_eos = p.ignore_eos == 0;

    const Tokenizer* tokenizer = nullptr;
    if (s.state->file().tokenizer()) {
      NWC_ASSIGN_OR_RETURN(tokenizer, s.state->tokenizer());
    }
    NWC_ASSIGN_OR_RETURN(StopStrings stop, stop_strings(p, tokenizer, &generation.stop_tokens));
    const auto token_text = [&](uint32_t token) {
      return tokenizer == nullptr ? std::string_view("") : tokenizer->token_bytes(token);
    };
    const auto on_token = [&](uint32_t token, std::string_view text) {
      return callback(callback_user, token, text.data(), text.size()) == 0;
    };
    NWC_ASSIGN_OR_RETURN(const StopReason reason, generate(*s.session, sampler, std::span(prompt, num_prompt),
                                                           generation, stop, token_text, on_token));
    if (out_stop_reason != nullptr) *out_stop_reason = static_cast<nwc_stop_reason>(reason);
    return {};
  });
}
