// nwc run: text from a model, through the public C API only (what an application would do).

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"
#include "host-tools/model_input.h"
#include "nwc/nwc.h"

namespace nwc::cli {
namespace {

struct RunOptions {
  std::string model, prompt, prompt_file, mode = "auto", memory;
  DeviceOptions device;
  uint32_t max_tokens = 128, context = 0, top_k = 40;
  float temperature = 0.8f, top_p = 0.95f;
  uint64_t seed = 1;
  double warn_above = 5;
  bool greedy = false, ignore_eos = false, plan_only = false, no_echo = false;
};

Status to_status(nwc_status status, const std::string& text) {
  return status == NWC_STATUS_OK ? Status() : Status(static_cast<StatusCode>(status), text);
}

// Calls that make a handle write their error text into a buffer of the caller's.
struct ErrorText {
  char text[1024] = "";
  nwc_error_detail detail{text, sizeof text};
  Status status(nwc_status s) const { return to_status(s, text); }
};

struct ModelDeleter {
  void operator()(nwc_model* m) const { nwc_model_destroy(m); }
};
struct SessionDeleter {
  void operator()(nwc_session* s) const { nwc_session_destroy(s); }
};
using ModelPtr = std::unique_ptr<nwc_model, ModelDeleter>;
using SessionPtr = std::unique_ptr<nwc_session, SessionDeleter>;

Status open_model(const RunOptions& options, const Context& context, ModelPtr* out, bool* compressed) {
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(options.model, context.threads));
  *compressed = input.compressed;
  ErrorText error;
  nwc_model* model = nullptr;
  if (input.compressed) {
    NWC_TRY(
        error.status(nwc_model_open_path(options.model.c_str(), &error.detail, &model)).with_context(options.model));
  } else {
    nwc_read_callbacks callbacks;
    nwc_read_callbacks_init(&callbacks);
    callbacks.size_bytes = input.reader->size();
    callbacks.user = input.reader.get();
    callbacks.read = [](void* user, uint64_t offset, void* bytes, size_t size) {
      return static_cast<Reader*>(user)->read(offset, {static_cast<uint8_t*>(bytes), size}).ok() ? 0 : 1;
    };
    callbacks.close = [](void* user) { delete static_cast<Reader*>(user); };
    NWC_TRY(error.status(nwc_model_open_callbacks(&callbacks, &error.detail, &model)).with_context(options.model));
    input.reader.release();  // the model's now, see close
  }
  out->reset(model);
  return {};
}

const char* mode_name(nwc_weight_mode mode) {
  static const char* const kModes[] = {"auto", "resident", "streamed", "cached", "fused"};
  return kModes[std::min<uint32_t>(mode, NWC_WEIGHTS_FUSED)];
}

nlohmann::json plan_json(const nwc_session_plan& plan) {
  return {{"mode", mode_name(plan.mode)},
          {"context", plan.context},
          {"batch", plan.batch},
          {"resident_layers", plan.num_resident_layers},
          {"weight_bytes", plan.weight_bytes},
          {"stream_buffer_bytes", plan.stream_buffer_bytes},
          {"kv_cache_bytes", plan.kv_cache_bytes},
          {"activation_bytes", plan.activation_bytes},
          {"decoder_bytes", plan.decoder_bytes},
          {"total_bytes", plan.total_bytes},
          {"needed_resident_bytes", plan.needed_resident_bytes},
          {"needed_streamed_bytes", plan.needed_streamed_bytes},
          {"needed_fused_bytes", plan.needed_fused_bytes}};
}

void print_plan(FILE* out, const nwc_session_plan& plan) {
  fmt::print(out, "memory plan: {} mode, {} of {} layers resident, context {}\n", mode_name(plan.mode),
             plan.num_resident_layers, plan.num_layers, plan.context);
  fmt::print(out, "  weights {}, stream buffers {}, KV cache {}, activations {}, decoder {}: {} in total\n",
             format_bytes(plan.weight_bytes), format_bytes(plan.stream_buffer_bytes), format_bytes(plan.kv_cache_bytes),
             format_bytes(plan.activation_bytes), format_bytes(plan.decoder_bytes), format_bytes(plan.total_bytes));
  fmt::print(out, "  resident would need {}, streamed at least {}, fused {}\n",
             format_bytes(plan.needed_resident_bytes), format_bytes(plan.needed_streamed_bytes),
             format_bytes(plan.needed_fused_bytes));
}

Status session_params(const RunOptions& options, const Context& context, bool compressed, nwc_session_params* params) {
  nwc_session_params_init(params);
  params->backend = options.device.backend == "cpu"      ? NWC_BACKEND_CPU
                    : options.device.backend == "vulkan" ? NWC_BACKEND_VULKAN
                                                         : NWC_BACKEND_AUTO;
  if (!options.device.device.empty()) params->device_name = options.device.device.c_str();
  params->num_threads = context.threads;
  params->context = options.context;
  params->mode = options.mode == "resident"   ? NWC_WEIGHTS_RESIDENT
                 : options.mode == "streamed" ? NWC_WEIGHTS_STREAMED
                 : options.mode == "cached"   ? NWC_WEIGHTS_CACHED
                 : options.mode == "fused"    ? NWC_WEIGHTS_FUSED
                                              : NWC_WEIGHTS_AUTO;
  // An uncompressed model may hold numbers that f16 cannot: keep it exact.
  params->weight_precision = compressed ? NWC_PRECISION_F16 : NWC_PRECISION_F32;
  if (!options.memory.empty()) {
    NWC_ASSIGN_OR_RETURN(params->memory_budget_bytes, parse_bytes(options.memory));
  }
  const Logger logger = context.logger();
  params->log = [](void* user, nwc_log_level level, const char* message) {
    static_cast<const Context*>(user)->logger().log(static_cast<LogLevel>(level), message);
  };
  params->log_user = logger.user;
  return {};
}

Result<nwc_session_estimate> make_estimate(const nwc_model* model, const nwc_session_params& params) {
  nwc_session_estimate estimate;
  nwc_session_estimate_init(&estimate);
  ErrorText error;
  NWC_TRY(error.status(nwc_session_make_estimate(model, &params, &error.detail, &estimate)));
  return estimate;
}

/// A warning if this session would be too slow to be of use.
void warn_if_slow(const nwc_model* model, nwc_session_params params, const nwc_session_plan& plan,
                  const nwc_session_estimate& estimate, double seconds, const Context& context) {
  if (seconds <= 0 || !is_slow(estimate, seconds)) return;
  params.mode = NWC_WEIGHTS_RESIDENT;
  nwc_session_plan resident_plan;
  nwc_session_plan_init(&resident_plan);
  const bool fits = nwc_session_make_plan(model, &params, nullptr, &resident_plan) == NWC_STATUS_OK;
  const Result<nwc_session_estimate> resident =
      fits ? make_estimate(model, params) : Result<nwc_session_estimate>(Status(StatusCode::kBudget, ""));
  context.logger().log(LogLevel::kWarning, slow_warning(estimate, mode_name(plan.mode), &resident_plan,
                                                        resident.ok() ? &*resident : nullptr));
}

struct Generation {
  const Context* context;
  std::string text;
  std::vector<uint32_t> tokens;
};

Status run(const RunOptions& options, Context& context) {
  (void)interrupted();
  ModelPtr model;
  bool compressed = false;
  NWC_TRY(open_model(options, context, &model, &compressed));

  nwc_session_params params;
  NWC_TRY(session_params(options, context, compressed, &params));
  nwc_session_plan plan;
  nwc_session_plan_init(&plan);
  ErrorText error;
  NWC_TRY(error.status(nwc_session_make_plan(model.get(), &params, &error.detail, &plan)));
  std::optional<nwc_session_estimate> estimate;
  if (compressed && (options.warn_above > 0 || options.plan_only || context.verbose)) {
    NWC_ASSIGN_OR_RETURN(estimate, make_estimate(model.get(), params));
    warn_if_slow(model.get(), params, plan, *estimate, options.warn_above, context);
  }
  if (options.plan_only && context.json) {
    nlohmann::json json = plan_json(plan);
    if (estimate) json["expected"] = estimate_json(*estimate);
    context.print_json(json);
    return {};
  }
  if (options.plan_only || context.verbose) {
    FILE* const out = options.plan_only ? stdout : stderr;
    print_plan(out, plan);
    if (estimate) fmt::print(out, "{}", estimate_text(*estimate));
  }
  if (options.plan_only) return {};

  std::string prompt = options.prompt;
  if (!options.prompt_file.empty()) {
    std::ifstream file(options.prompt_file, std::ios::binary);
    if (!file) return io_error(options.prompt_file + ": cannot be read");
    prompt.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::vector<uint32_t> tokens(nwc_tokenize_bound(prompt.size()));
  size_t count = 0;
  NWC_TRY(to_status(nwc_tokenize(model.get(), prompt.data(), prompt.size(), NWC_TOKENIZE_ADD_SPECIAL, tokens.data(),
                                 tokens.size(), &count),
                    nwc_model_last_error(model.get())));
  tokens.resize(count);
  if (tokens.empty()) {
    nwc_model_info info;
    nwc_model_info_init(&info);
    (void)nwc_model_get_info(model.get(), &info);
    if (info.num_eos_ids == 0) return invalid_argument("the prompt is empty; give some text with --prompt");
    tokens.push_back(info.eos_ids[0]);  // models without BOS start a text after the end of another
  }

  nwc_session* raw_session = nullptr;
  {
    ProgressLine progress(context, "loading");
    const auto report = [](void* user, uint64_t done, uint64_t total) {
      return static_cast<ProgressLine*>(user)->report(done, total) ? 0 : 1;
    };
    NWC_TRY(error.status(nwc_session_create(model.get(), &params, report, &progress, &error.detail, &raw_session)));
  }
  const SessionPtr session(raw_session);

  nwc_generate_params generate;
  nwc_generate_params_init(&generate);
  generate.max_tokens = options.max_tokens;
  generate.temperature = options.greedy ? 0.0f : options.temperature;
  generate.top_k = options.top_k;
  generate.top_p = options.top_p;
  generate.seed = options.seed;
  generate.ignore_eos = options.ignore_eos ? 1 : 0;

  Generation generation{&context, {}, {}};
  if (!context.json && !options.no_echo) {
    std::fwrite(prompt.data(), 1, prompt.size(), stdout);
    std::fflush(stdout);
  }
  const auto on_token = [](void* user, uint32_t token, const char* text, size_t length) {
    auto* g = static_cast<Generation*>(user);
    g->tokens.push_back(token);
    g->text.append(text, length);
    if (!g->context->json) {
      std::fwrite(text, 1, length, stdout);
      std::fflush(stdout);
    }
    return interrupted() ? 1 : 0;
  };
  // The first token's time separates reading the prompt from generating.
  const auto start = std::chrono::steady_clock::now();
  if (tokens.size() > 1)
    NWC_TRY(to_status(nwc_session_eval(session.get(), tokens.data(), tokens.size() - 1, NWC_LOGITS_NONE, nullptr, 0),
                      nwc_session_last_error(session.get())));
  const auto middle = std::chrono::steady_clock::now();
  nwc_stop_reason reason = NWC_STOP_MAX_TOKENS;
  NWC_TRY(to_status(nwc_session_generate(session.get(), &tokens.back(), 1, &generate, on_token, &generation, &reason),
                    nwc_session_last_error(session.get())));
  const auto end = std::chrono::steady_clock::now();
  const double prompt_seconds = std::chrono::duration<double>(middle - start).count();
  const double seconds = std::chrono::duration<double>(end - middle).count();
  static const char* const kReasons[] = {"max_tokens", "end_of_text", "context_full", "interrupted"};

  if (context.json) {
    context.print_json(
        {{"model", options.model},
         {"device", nwc_session_name(session.get())},
         {"plan", plan_json(plan)},
         {"prompt", prompt},
         {"text", generation.text},
         {"tokens", generation.tokens},
         {"prompt_tokens", tokens.size()},
         {"stop", kReasons[reason & 3]},
         {"prompt_seconds", prompt_seconds},
         {"seconds", seconds},
         {"tokens_per_second", seconds > 0 ? static_cast<double>(generation.tokens.size()) / seconds : 0}});
  } else {
    std::fputc('\n', stdout);
    if (!context.quiet)
      fmt::print(stderr, "\n{} tokens at {:.1f} tokens/s, {} mode, {}, {} of memory planned\n",
                 generation.tokens.size(), seconds > 0 ? static_cast<double>(generation.tokens.size()) / seconds : 0,
                 mode_name(plan.mode), nwc_session_name(session.get()), format_bytes(plan.total_bytes));
  }
  return {};
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Generate text from a compressed or uncompressed model");
  command->add_option("model", options->model, ".nwc file, Hugging Face folder or .gguf file")->required();
  auto* prompt = command->add_option("-p,--prompt", options->prompt, "Text to continue");
  command->add_option("--prompt-file", options->prompt_file, "Read the prompt from a file")->excludes(prompt);
  command->add_option("-n,--tokens", options->max_tokens, "Most tokens to generate")->capture_default_str();
  command
      ->add_option(
          "--mode", options->mode,
          "auto, resident (decode once), cached (as much as fits), streamed (two layer buffers), fused (multiply by "
          "coded weights)")
      ->check(CLI::IsMember({"auto", "resident", "cached", "streamed", "fused"}))
      ->capture_default_str();
  command->add_option("--memory", options->memory, "Hard memory budget, like 600M or 1.5G");
  command->add_option("--context", options->context, "Tokens of context (default: the model's, at most 8192)");
  command->add_option("--temperature", options->temperature, "Randomness; 0 always takes the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "Draw among the k likeliest tokens; 0: all")->capture_default_str();
  command->add_option("--top-p", options->top_p, "Draw among the likeliest tokens that make up this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Seed of the draw")->capture_default_str();
  command->add_flag("--greedy", options->greedy, "The same as --temperature 0");
  command->add_flag("--ignore-eos", options->ignore_eos, "Do not stop at an end-of-text token");
  command->add_flag("--no-echo", options->no_echo, "Do not print the prompt before the text");
  command->add_flag("--plan", options->plan_only, "Print what memory and time it would take, and stop");
  command
      ->add_option("--warn-above", options->warn_above,
                   "Warn where a token is expected to take longer than so many seconds; 0: do not measure")
      ->capture_default_str();
  add_device_options(command, options->device);
  options->device.backend = "auto";
  add_common_options(command, context);
  command->callback([options, &context] { run_command(context, "run", [&] { return run(*options, context); }); });
}

}  // namespace nwc::cli
