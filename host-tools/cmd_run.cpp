// nwc run: text from a model, through the public C API only (what an application would do).

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"
#include "host-tools/model_input.h"
#include "host-tools/process_memory.h"
#include "host-tools/quality.h"
#include "host-tools/run_chat.h"
#include "host-tools/run_options.h"
#include "host-tools/run_report.h"
#include "nwc/nwc.h"

namespace nwc::cli {
namespace {

/// The text of the handle's last error is fetched here, after the call: the order in which the arguments of one call
/// are evaluated is not defined.
template <typename Handle>
Status to_status(nwc_status status, const Handle* handle, const char* (*last_error)(const Handle*)) {
  return api_status(status, last_error(handle));
}

// Calls that make a handle write their error text into a buffer of the caller's.
struct ErrorText {
  char text[1024] = "";
  nwc_error_detail detail{text, sizeof text};
  Status status(nwc_status s) const { return api_status(s, text); }
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
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(options.model, context));
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
    (void)input.reader.release();  // the model's now, see close
  }
  out->reset(model);
  return {};
}

Status session_params(const RunOptions& options, const Context& context, bool compressed, nwc_session_params* params) {
  NWC_TRY(check_device_options(options.device));
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
  const std::vector<std::string> names = weight_names();
  const auto weights = std::find(names.begin(), names.end(), options.weights) - names.begin();
  params->weight_precision = static_cast<nwc_precision>(weights);
  // An uncompressed model may hold numbers that f16 cannot: keep it exact.
  if (!compressed && options.weights == "auto") params->weight_precision = NWC_PRECISION_F32;
  if (!options.memory.empty()) {
    NWC_ASSIGN_OR_RETURN(params->memory_budget_bytes, parse_budget(options.memory));
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

/// What is generated, printed as it comes.
struct Generation {
  bool print = false;
  std::string echo;  ///< the prompt, until the first text is printed: an error before it leaves stdout empty
  std::string text;
  std::vector<uint32_t> tokens;
  Status printed;

  void add(std::string_view piece) {
    text += piece;
    if (print && printed.ok()) printed = write_stdout(std::exchange(echo, {}) + std::string(piece));
  }
};

Result<std::string> read_prompt(const RunOptions& options) {
  if (options.prompt_file.empty()) return options.prompt;
  if (options.prompt_file != "-") return read_text(options.prompt_file);
  std::string prompt;
  char piece[4096];
  for (size_t n; (n = std::fread(piece, 1, sizeof piece, stdin)) > 0;) prompt.append(piece, n);
  if (std::ferror(stdin) != 0) return io_error(std::string("the prompt on stdin: ") + std::strerror(errno));
  return prompt;
}

/// The prompt's tokens, at least one.
Result<std::vector<uint32_t>> tokenize(const nwc_model* model, const std::string& prompt, bool special) {
  uint32_t flags = NWC_TOKENIZE_ADD_SPECIAL;
  if (special) flags |= NWC_TOKENIZE_PARSE_SPECIAL;
  NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, text_tokens(model, prompt, flags));
  if (!tokens.empty()) return tokens;
  uint64_t eos = 0;
  if (nwc_model_get_u64(model, "eos_id.0", &eos) != NWC_STATUS_OK)
    return invalid_argument("the prompt is empty; give some text with --prompt");
  return std::vector<uint32_t>{static_cast<uint32_t>(eos)};  // models without BOS start a text after another's end
}

/// stop: texts that outlive the result.
nwc_generate_params generate_params(const RunOptions& options, const std::vector<const char*>& stop) {
  nwc_generate_params params;
  nwc_generate_params_init(&params);
  params.max_tokens = options.max_tokens;
  params.temperature = options.greedy ? 0.0f : options.temperature;
  params.top_k = options.top_k;
  params.top_p = options.top_p;
  // Zero probability leaves the likeliest token alone; to the library it would mean that nothing was chosen.
  if (options.top_p == 0) params.temperature = 0;
  params.seed = options.seed;
  params.ignore_eos = options.ignore_eos ? 1 : 0;
  params.min_p = options.min_p;
  params.repetition_penalty = options.repetition_penalty;
  params.presence_penalty = options.presence_penalty;
  params.frequency_penalty = options.frequency_penalty;
  params.stop_strings = stop.data();
  params.num_stop_strings = static_cast<uint32_t>(stop.size());
  return params;
}

constexpr const char* kReasons[] = {"max_tokens", "end_of_text", "context_full", "interrupted", "stop_string"};

/// One answer, or a conversation.
Status chat_with(const RunOptions& options, const nwc_model* model, nwc_session* session, const nwc_session_plan& plan,
                 const nwc_generate_params& generate, Context& context) {
  Chat chat(model, session, generate, options.system_given ? std::optional(options.system) : std::nullopt);
  if (!options.prompt_given) return converse(chat, context);
  NWC_ASSIGN_OR_RETURN(const std::string question, read_prompt(options));
  NWC_ASSIGN_OR_RETURN(const Chat::Answer answer, chat.ask(question, !context.json));
  if (answer.reason == NWC_STOP_CONTEXT_FULL)
    context.logger().log(LogLevel::kWarning,
                         "the answer is cut off, because the context is full; ask for more with --context");
  if (context.json) {
    context.print_json({{"model", options.model},
                        {"device", nwc_session_name(session)},
                        {"plan", plan_json(plan)},
                        {"prompt", question},
                        {"text", answer.text},
                        {"tokens", answer.tokens},
                        {"prompt_tokens", answer.prompt_tokens},
                        {"stop", kReasons[std::min<size_t>(answer.reason, std::size(kReasons) - 1)]},
                        {"prompt_seconds", answer.prompt_seconds},
                        {"seconds", answer.seconds}});
    return {};
  }
  NWC_TRY(write_stdout("\n"));
  if (!context.quiet) print_speed(session, plan, answer.tokens.size(), answer.seconds);
  return {};
}

Status run(const RunOptions& options, Context& context) {
  ModelPtr model;
  bool compressed = false;
  NWC_TRY(open_model(options, context, &model, &compressed));

  if (options.chat) {
    NWC_TRY(check_chat(model.get(), options.system_given ? std::optional(options.system) : std::nullopt)
                .with_context(options.model));
  }
  nwc_session_params params;
  NWC_TRY(session_params(options, context, compressed, &params));
  nwc_session_plan plan;
  nwc_session_plan_init(&plan);
  ErrorText error;
  NWC_TRY(error.status(nwc_session_make_plan(model.get(), &params, &error.detail, &plan)));
  (void)tokenize(model.get(), " ", false);  // the tokenizer is made at its first use
  const ProcessMemory before = process_memory();
  std::optional<nwc_session_estimate> estimate;
  if (compressed && (options.warn_above > 0 || options.plan_only || context.verbose)) {
    NWC_ASSIGN_OR_RETURN(estimate, make_estimate(model.get(), params));
    warn_if_slow(model.get(), params, plan, *estimate, options.warn_above, context);
  }
  if (options.plan_only && context.json) {
    nlohmann::json json = plan_json(plan);
    json["process"] = process_json(before, before);
    if (estimate) json["expected"] = estimate_json(*estimate);
    context.print_json(json);
    return {};
  }
  if (options.plan_only || context.verbose) {
    FILE* const out = options.plan_only ? stdout : stderr;
    print_plan(out, plan);
    fmt::print(out, "{}", process_text(before));
    if (estimate) fmt::print(out, "{}", estimate_text(*estimate));
  }
  if (options.plan_only) return {};

  std::string prompt;
  std::vector<uint32_t> tokens;
  if (!options.chat) {
    NWC_ASSIGN_OR_RETURN(prompt, read_prompt(options));
    NWC_ASSIGN_OR_RETURN(tokens, tokenize(model.get(), prompt, options.special));
    if (tokens.size() > plan.context)
      return limit_error(
          fmt::format("the prompt has {} tokens, but the context holds {}; shorten it, or ask for more with "
                      "--context",
                      tokens.size(), plan.context));
    const char* chat_template = nullptr;
    const bool instruct = nwc_model_get_string(model.get(), "chat_template", &chat_template) == NWC_STATUS_OK;
    if (instruct && !options.special && !context.quiet)
      fmt::print(stderr, "this model has a chat template: to ask it something, use --chat\n");
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

  std::vector<std::string> stop_texts = options.stop;
  if (options.chat) {
    const std::vector<std::string> more = chat_stops(model.get());
    stop_texts.insert(stop_texts.end(), more.begin(), more.end());
  }
  std::vector<const char*> stop;
  stop.reserve(stop_texts.size());
  for (const std::string& text : stop_texts) stop.push_back(text.c_str());
  nwc_generate_params generate = generate_params(options, stop);
  if (options.chat) {
    if (!options.tokens_given) generate.max_tokens = 0;  // until the answer ends
    return chat_with(options, model.get(), session.get(), plan, generate, context);
  }
  Generation generation;
  generation.print = !context.json;
  if (!options.no_echo) generation.echo = prompt;
  const auto on_token = [](void* user, uint32_t token, const char* text, size_t length) {
    auto* g = static_cast<Generation*>(user);
    g->tokens.push_back(token);
    g->add({text, length});
    return interrupted() || !g->printed.ok() ? 1 : 0;
  };
  // The first token's time separates reading the prompt from generating.
  const auto start = std::chrono::steady_clock::now();
  const size_t first = options.max_tokens == 0 ? tokens.size() : tokens.size() - 1;
  if (first != 0)
    NWC_TRY(to_status(nwc_session_eval(session.get(), tokens.data(), first, NWC_LOGITS_NONE, nullptr, 0), session.get(),
                      nwc_session_last_error));
  const auto middle = std::chrono::steady_clock::now();
  nwc_stop_reason reason = NWC_STOP_MAX_TOKENS;
  if (options.max_tokens != 0)  // to the library 0 would be no limit
    NWC_TRY(to_status(nwc_session_generate(session.get(), &tokens.back(), 1, &generate, on_token, &generation, &reason),
                      session.get(), nwc_session_last_error));
  generation.add("");
  NWC_TRY(generation.printed);
  const auto end = std::chrono::steady_clock::now();
  const double prompt_seconds = std::chrono::duration<double>(middle - start).count();
  const double seconds = std::chrono::duration<double>(end - middle).count();

  if (context.json) {
    context.print_json(
        {{"model", options.model},
         {"device", nwc_session_name(session.get())},
         {"plan", plan_json(plan)},
         {"experts", experts_json(session.get())},
         {"process", process_json(before, process_memory())},
         {"prompt", prompt},
         {"text", generation.text},
         {"tokens", generation.tokens},
         {"prompt_tokens", tokens.size()},
         {"stop", kReasons[std::min<size_t>(reason, std::size(kReasons) - 1)]},
         {"prompt_seconds", prompt_seconds},
         {"seconds", seconds},
         {"tokens_per_second", seconds > 0 ? static_cast<double>(generation.tokens.size()) / seconds : 0}});
  } else {
    NWC_TRY(write_stdout("\n"));
    if (!context.quiet) print_speed(session.get(), plan, generation.tokens.size(), seconds);
  }
  return {};
}

}  // namespace

void add_run(CommandLine& line, Context& context) {
  auto options = std::make_shared<RunOptions>();
  Command command = line.add_command("run", "Generate text from a compressed or uncompressed model");
  add_run_options(command, options.get());
  add_common_options(command, context);
  command.on_run([=, &context] {
    options->system_given = command.given("--system");
    options->tokens_given = command.given("--tokens");
    options->prompt_given = command.given("--prompt") || command.given("--prompt-file");
    run_command(context, "run", [&]() -> Status {
      if (options->chat && context.json && !options->prompt_given && !options->plan_only)
        return invalid_argument("--chat with --json needs a question: give one with --prompt");
      if (options->chat && options->tokens_given && options->max_tokens == 0)
        return invalid_argument("--chat with --tokens 0 has nothing to do");
      return run(*options, context);
    });
  });
}

}  // namespace nwc::cli
