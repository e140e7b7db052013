// Tokens per second and peak memory by mode, through the C API. Each mode runs in a process of its own, this program
// again with --child, so that the peak is the mode's.
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/bench_commands.h"
#include "bench/child_process.h"

namespace nwc::bench {
namespace {

constexpr uint64_t kAllowance = 64u << 20;  // beyond file, two layers and KV cache: what streaming may take
constexpr uint64_t kProcess = 16u << 20;    // of these for program, metadata and tokenizer, which no plan counts

struct TokenOptions : CommonOptions {
  BackendOptions backend;
  std::string model, child, child_backend, weights;
  std::vector<std::string> modes = {"resident", "cached", "fused-cached", "streamed", "streamed-budget", "fused"};
  uint32_t context = 0, prompt = 128, generate = 32;
  double seconds = 60;
  bool fill = false;
};

/// Two layers' matrices in f16.
uint64_t two_layers(const nwc_model* model) {
  const auto get = [&](const char* key) {
    uint64_t value = 0;
    check(nwc_model_get_u64(model, key, &value), key);
    return value;
  };
  const uint64_t heads = get("num_heads") + get("num_kv_heads");
  return 2 * 2 * get("hidden_size") * (2 * heads * get("head_dim") + 3 * get("intermediate_size"));
}

nwc_session_params make_params(const TokenOptions& o, const nwc_model* model) {
  nwc_session_params params;
  nwc_session_params_init(&params);
  params.backend = o.child_backend == "vulkan" ? NWC_BACKEND_VULKAN : NWC_BACKEND_CPU;
  params.device_name = o.backend.device.empty() ? nullptr : o.backend.device.c_str();
  params.num_threads = o.threads;
  params.context = o.context;
  params.weight_precision = precision_named(o.weights);
  params.mode = o.child == "resident"                             ? NWC_WEIGHTS_RESIDENT
                : o.child == "cached"                             ? NWC_WEIGHTS_CACHED
                : o.child == "fused" || o.child == "fused-cached" ? NWC_WEIGHTS_FUSED
                                                                  : NWC_WEIGHTS_STREAMED;
  if (o.child == "cached" || o.child == "fused-cached") {  // half way
    const nwc_session_plan plan = make_plan(model, params);
    params.memory_budget_bytes = (plan.needed_resident_bytes + plan.needed_streamed_bytes) / 2;
  } else if (o.child == "streamed-budget") {
    params.memory_budget_bytes = two_layers(model) + make_plan(model, params).kv_cache_bytes + kAllowance - kProcess;
  }
  return params;
}

/// `count` tokens of a text that any model may meet.
std::vector<uint32_t> make_prompt(const nwc_model* model, const nwc_model_info& info, size_t count) {
  std::vector<uint32_t> tokens;
  if (info.has_tokenizer == 0) {
    for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<uint32_t>(i * 7919 % info.vocab_size));
    return tokens;
  }
  const std::string sentence = "It was a dark and stormy night; the rain fell in torrents, and the lamps went out. ";
  std::string text;
  while (text.size() < 8 * count) text += sentence;
  tokens.resize(nwc_tokenize_bound(text.size()));
  size_t found = 0;
  check(nwc_tokenize(model, text.data(), text.size(), 0, tokens.data(), tokens.size(), &found), model,
        nwc_model_last_error);
  while (found < count) tokens[found] = tokens[found / 2], ++found;
  tokens.resize(count);
  tokens.shrink_to_fit();
  return tokens;
}

/// What the process with --child does: one mode on one backend.
void run_child(const TokenOptions& o) {
  const auto begin = std::chrono::steady_clock::now();
  nwc_model* const model = open_model(o.model);
  nwc_model_info info;
  nwc_model_info_init(&info);
  check(nwc_model_get_info(model, &info), model, nwc_model_last_error);
  const nwc_session_params params = make_params(o, model);
  nwc_session* session = nullptr;
  const double load = seconds_of(false, [&] { session = create_session(model, params); });
  nwc_session_plan plan;
  nwc_session_plan_init(&plan);
  check(nwc_session_get_plan(session, &plan), session, nwc_session_last_error);
  const auto eval = [&](const std::vector<uint32_t>& tokens) {
    check(nwc_session_truncate(session, 0), session, nwc_session_last_error);
    check(nwc_session_eval(session, tokens.data(), tokens.size(), NWC_LOGITS_NONE, nullptr, 0), session,
          nwc_session_last_error);
  };
  uint32_t num_generate = 1;
  std::vector<uint32_t> prompt = make_prompt(model, info, 2);
  const auto generation = [&] {
    nwc_generate_params generate;
    nwc_generate_params_init(&generate);
    generate.max_tokens = num_generate;
    generate.ignore_eos = 1;
    const auto on_token = [](void*, uint32_t, const char*, size_t) { return 0; };
    check(nwc_session_generate(session, &prompt.back(), 1, &generate, on_token, nullptr, nullptr), session,
          nwc_session_last_error);
  };
  eval(prompt);
  generation();  // a first time, in which devices compile
  const double first_token = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const double one = std::max(1e-6, seconds_of(false, [&] { generation(); }));
  // Tokens of a prompt cost a quarter of others, or less. A slow device gets fewer of both.
  const auto affordable = [&](uint32_t wanted, double runs) {
    return std::clamp(static_cast<uint32_t>(std::min(1e9, o.seconds / one / runs)), 2u, std::max(2u, wanted));
  };
  num_generate = affordable(o.generate, 2 * (o.repeat + 1));
  prompt = make_prompt(model, info, affordable(std::min(o.prompt, plan.context / 2), (o.repeat + 1) / 2.0));
  std::vector<double> prompt_seconds, generation_seconds;
  double spent = 0;
  for (uint32_t i = 0; i < o.repeat && spent < o.seconds; ++i) {
    prompt_seconds.push_back(seconds_of(false, [&] { eval(prompt); }) / static_cast<double>(prompt.size()));
    const uint32_t before = nwc_session_position(session);
    const double seconds = seconds_of(false, generation);
    spent += prompt_seconds.back() * static_cast<double>(prompt.size()) + seconds;
    generation_seconds.push_back(seconds / (nwc_session_position(session) - before));
  }
  if (o.fill) eval(make_prompt(model, info, plan.context));
  const nlohmann::json json = {{"device", nwc_session_name(session)},
                               {"weights", info.num_weights},
                               {"bpw", info.bpw_file},
                               {"preset", info.codec_width == 0 ? "linear" : "network"},
                               {"load_seconds", load},
                               {"first_token_seconds", first_token},
                               {"prompt", prompt_seconds},
                               {"prompt_tokens", prompt.size()},
                               {"generated_tokens", num_generate},
                               {"generation", generation_seconds},
                               {"peak_bytes", memory_of_process("VmHWM:")},
                               {"anonymous_bytes", memory_of_process("RssAnon:")},
                               {"file_bytes", info.file_bytes},
                               {"plan_bytes", plan.total_bytes},
                               {"kv_cache_bytes", plan.kv_cache_bytes},
                               {"budget_bytes", params.memory_budget_bytes},
                               {"context", plan.context},
                               {"limit_bytes", info.file_bytes + two_layers(model) + plan.kv_cache_bytes + kAllowance}};
  std::printf("%s\n", json.dump().c_str());
  nwc_session_destroy(session);
  nwc_model_destroy(model);
}

void run_tokens(const TokenOptions& o) {
  if (!o.child.empty()) return run_child(o);
  Report report(o.json, o.repeat, o.only);
  std::vector<std::string> backends;
  if (o.backend.cpu()) backends.push_back("cpu");
  if (o.backend.vulkan()) backends.push_back("vulkan");
  for (const std::string& backend : backends) {
    for (const std::string& mode : o.modes) {
      if (!report.wanted({.name = "generation, " + mode, .backend = backend})) continue;
      const double copy = report.copy_seconds_per_byte(false);
      const auto text = run_again({"--child", mode, "--child-backend", backend});
      const auto json = nlohmann::json::parse(text.value_or(""), nullptr, false);
      if (json.is_discarded()) {
        report.note(mode + " on " + backend + " left out: it failed");
        continue;
      }
      for (const char* what : {"prompt", "generation"}) {
        const std::vector<double> seconds = json[what];
        Record r{.name = std::string(what) + ", " + mode,
                 .preset = json["preset"],
                 .bpw = json["bpw"],
                 .backend = backend,
                 .device = json["device"],
                 .threads = o.threads,
                 .weights = json["weights"]};
        r.seconds_median = median(seconds);
        r.seconds_min = *std::min_element(seconds.begin(), seconds.end());
        r.ratio_memcpy = r.seconds_median / (copy * 2 * static_cast<double>(r.weights));
        r.extra.emplace_back("tokens_per_second", 1 / r.seconds_median);
        for (const char* key :
             {"peak_bytes", "limit_bytes", "anonymous_bytes", "plan_bytes", "file_bytes", "kv_cache_bytes",
              "budget_bytes", "context", "load_seconds", "first_token_seconds", "prompt_tokens", "generated_tokens"})
          r.extra.emplace_back(key, json[key]);
        report.add(r);
      }
    }
  }
  report.finish();
}

}  // namespace

void add_tokens(cli::CommandLine& line) {
  const auto o = std::make_shared<TokenOptions>();
  cli::Command command = line.add_command(
      "tokens", "Seconds per token and peak memory of a model by mode; records are of one token and all weights");
  o->add_to(command);
  o->backend.add_to(command);
  command.add_option("model", o->model, ".nwc file").required().existing_file();
  command
      .add_option("--mode", o->modes,
                  "Modes; cached, fused-cached: half way between what resident and streamed need; streamed-budget: "
                  "within the memory that streaming may take")
      .one_of({"resident", "cached", "fused-cached", "streamed", "streamed-budget", "fused"})
      .show_default();
  command.add_option("--context", o->context, "Tokens of the KV cache (default: the model's, at most 8192)");
  command.add_option("--prompt", o->prompt, "Tokens of the prompt").show_default();
  command.add_option("--generate", o->generate, "Tokens to generate").range(1, 1 << 20).show_default();
  command.add_option("--seconds", o->seconds, "About so long for a mode, with fewer tokens where that is not enough")
      .show_default();
  command.add_flag("--fill", o->fill, "Fill the KV cache before the peak is read");
  command.add_option("--weights", o->weights, "Form of decoded weights (default: what sessions choose)")
      .one_of(weight_forms());
  command.add_option("--child", o->child).group("");
  command.add_option("--child-backend", o->child_backend).group("");
  command.on_run([o] { run_tokens(*o); });
}

}  // namespace nwc::bench
