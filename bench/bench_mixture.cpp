// A mixture of experts that is larger than the memory: tokens per second, hits, and bytes read by budget, against
// experts in f16 that are mapped from the disk, in the same run and in the same memory. Both take the same experts for
// the same tokens (routing.h). Page caches are emptied before every token, so that no memory beside the budget helps.
// Each run has a process of its own, whose peak memory counts.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/bench_commands.h"
#include "bench/bench_files.h"
#include "bench/child_process.h"
#include "bench/mapped_experts.h"
#include "bench/routing.h"

namespace nwc::bench {
namespace {

struct MixtureOptions : CommonOptions {
  std::string model, mapped, weights = "packed";
  std::vector<uint32_t> shares = {25, 50, 100};
  uint32_t tokens = 16, warm = 48, context = 256;
  // Of a child:
  std::string child, choices;
  uint64_t budget = 0;
};

nwc_session_params params_of(const MixtureOptions& o) {
  nwc_session_params params;
  nwc_session_params_init(&params);
  params.backend = NWC_BACKEND_CPU;
  params.num_threads = o.threads;
  params.context = o.context;
  params.memory_budget_bytes = o.budget;
  params.weight_precision = precision_named(o.weights);
  params.log = [](void*, nwc_log_level level, const char* message) {
    if (level >= NWC_LOG_WARNING) std::fprintf(stderr, "%s\n", message);
  };
  return params;
}

nwc_model_info info_of(const nwc_model* model) {
  nwc_model_info info;
  nwc_model_info_init(&info);
  check(nwc_model_get_info(model, &info), model, nwc_model_last_error);
  return info;
}

/// One session: tokens one after another.
nlohmann::json run_session(const MixtureOptions& o) {
  const OpenFile cold(o.model);
  nwc_model* const model = open_model(o.model);
  const nwc_session_params params = params_of(o);
  const nwc_session_plan plan = make_plan(model, params);
  const uint64_t before = memory_of_process("VmRSS:");
  nwc_session* const session = create_session(model, params);
  const auto stats = [&] {
    nwc_expert_stats s;
    nwc_expert_stats_init(&s);
    check(nwc_session_get_expert_stats(session, &s), session, nwc_session_last_error);
    return s;
  };
  const nwc_model_info info = info_of(model);
  std::vector<float> logits(info.vocab_size);
  const std::vector<uint32_t> tokens = topic_tokens(info.vocab_size, o.warm + o.tokens);
  const auto step = [&](uint32_t t) {
    check(nwc_session_eval(session, &tokens[t], 1, NWC_LOGITS_LAST, logits.data(), logits.size()), session,
          nwc_session_last_error);
  };
  for (uint32_t t = 0; t < o.warm; ++t) step(t);  // the cache fills
  const nwc_expert_stats first = stats();
  std::vector<double> seconds;
  for (uint32_t t = 0; t < o.tokens; ++t) {
    cold.forget();
    const double begin = now();
    step(o.warm + t);
    seconds.push_back(now() - begin);
  }
  const nwc_expert_stats last = stats();
  const auto per_token = [&](uint64_t a, uint64_t b) { return static_cast<double>(b - a) / o.tokens; };
  const double hits = per_token(first.hits, last.hits), misses = per_token(first.misses, last.misses);
  const double predicted = per_token(first.predicted, last.predicted);
  nlohmann::json json = {
      {"seconds", seconds},
      {"hit_rate", hits + misses == 0 ? 1.0 : hits / (hits + misses)},
      {"read_bytes_per_token", per_token(first.bytes_read, last.bytes_read)},
      {"stall_seconds_per_token", (last.stall_seconds - first.stall_seconds) / o.tokens},
      {"read_seconds_per_token", (last.read_seconds - first.read_seconds) / o.tokens},
      {"prefetch_used", predicted == 0 ? 0.0 : per_token(first.predicted_used, last.predicted_used) / predicted},
      {"expert_slots", plan.num_expert_slots},
      {"experts", plan.num_experts},
      {"plan_bytes", plan.total_bytes},
      {"before_bytes", before},
      {"peak_bytes", memory_of_process("VmHWM:")}};
  nwc_session_destroy(session);
  nwc_model_destroy(model);
  return json;
}

/// What the plan expects, without a session.
nwc_session_estimate estimate_of(const MixtureOptions& o, uint64_t budget) {
  nwc_model* const model = open_model(o.model);
  nwc_session_params params = params_of(o);
  params.memory_budget_bytes = budget;
  const nwc_session_estimate estimate = make_estimate(model, params);
  nwc_model_destroy(model);
  return estimate;
}

/// What a child does.
void run_child(const MixtureOptions& o) {
  if (o.child == "choices") {
    nwc_model* const model = open_model(o.model);
    const std::vector<uint32_t> tokens = topic_tokens(info_of(model).vocab_size, o.warm + o.tokens);
    nwc_model_destroy(model);
    choices_of(o.model, tokens, o.weights, o.budget, o.threads).save(o.choices);
    return;
  }
  const nlohmann::json json = o.child == "mapped"
                                  ? run_mapped({o.mapped, o.budget, o.threads, o.tokens}, Choices::load(o.choices))
                                  : run_session(o);
  std::printf("%s\n", json.dump().c_str());
}

void run_mixture(const MixtureOptions& o) {
  if (!o.child.empty()) return run_child(o);
  nwc_model* const model = open_model(o.model);
  const nwc_model_info info = info_of(model);
  const uint64_t whole = make_plan(model, params_of(o)).needed_resident_bytes;
  nwc_model_destroy(model);
  Report report(o.json, o.repeat, o.only);
  report.note("everything decoded takes " + std::to_string(whole >> 20) + " MiB as " + o.weights);
  // Both run the same tokens' choices, which no budget changes.
  const TemporaryFile file(std::filesystem::temp_directory_path().string(), "choices");
  const auto recorded =
      run_again({"--child", "choices", "--choices", file.path(), "--budget", std::to_string(whole / 2)});
  if (!recorded) check(unsupported(o.model + ": which experts it takes cannot be recorded"));
  const Choices choices = Choices::load(file.path());
  char reuse[160];
  std::snprintf(reuse, sizeof reuse,
                "%.0f %% of a token's experts are those of the token before, %.0f %% those of one of eight before",
                100 * choices.reuse(o.warm, 1), 100 * choices.reuse(o.warm, 8));
  report.note(reuse);
  for (const uint32_t share : o.shares) {
    const uint64_t budget = whole / 100 * share + (share == 100 ? whole % 100 : 0);
    std::vector<std::string> kinds = {"nwc"};
    if (!o.mapped.empty()) kinds.emplace_back("mapped");
    double mapped_seconds = 0, own_seconds = 0;
    for (const std::string& kind : kinds) {
      Record r{.name = kind + ", " + std::to_string(share) + " %",
               .backend = "cpu",
               .device = cpu_name(),
               .threads = o.threads,
               .weights = info.num_weights};
      if (kind == "nwc") r.bpw = info.bpw_file;
      if (!report.wanted(r)) continue;
      const double copy = report.copy_seconds_per_byte(false);
      nwc_session_estimate expected{};
      if (kind == "nwc") expected = estimate_of(o, budget);
      std::vector<double> medians;
      nlohmann::json json;
      for (uint32_t i = 0; i < o.repeat; ++i) {
        const auto text = run_again({"--child", kind, "--choices", file.path(), "--budget", std::to_string(budget)});
        json = nlohmann::json::parse(text.value_or(""), nullptr, false);
        if (json.is_discarded()) break;
        double sum = 0;
        for (const double s : json["seconds"]) sum += s;
        medians.push_back(sum / o.tokens);
      }
      if (json.is_discarded()) {
        report.note(r.name + " left out: it failed");
        continue;
      }
      r.seconds_median = median(medians);
      r.seconds_min = *std::min_element(medians.begin(), medians.end());
      r.ratio_memcpy = r.seconds_median / (copy * 2 * static_cast<double>(r.weights));
      (kind == "nwc" ? own_seconds : mapped_seconds) = r.seconds_median;
      r.extra.emplace_back("share", share);
      r.extra.emplace_back("tokens_per_second", 1 / r.seconds_median);
      for (const auto& [key, value] : json.items())
        if (value.is_number()) r.extra.emplace_back(key, value.get<double>());
      if (kind == "nwc") {
        r.extra.emplace_back("expected_tokens_per_second", 1 / expected.seconds_per_token);
        r.extra.emplace_back("expected_hit_rate", expected.expert_hits);
      }
      report.add(r);
      char line[256];
      std::snprintf(
          line, sizeof line, "  %.2f tokens/s, %.1f %% hits, %.1f MB read a token, peak %.0f MiB of %.0f planned",
          1 / r.seconds_median, 100 * json.value("hit_rate", 0.0), 1e-6 * json.value("read_bytes_per_token", 0.0),
          (json.value("peak_bytes", 0.0) - json.value("before_bytes", 0.0)) / (1 << 20),
          json.value("plan_bytes", 0.0) / (1 << 20));
      report.note(line);
      if (kind != "nwc") continue;
      std::snprintf(line, sizeof line, "  the plan expected %.2f tokens/s, %.1f %% hits",
                    1 / expected.seconds_per_token, 100 * expected.expert_hits);
      report.note(line);
    }
    if (mapped_seconds != 0 && own_seconds != 0) {
      char line[128];
      std::snprintf(line, sizeof line, "  nwc is %.2f times as fast as mapped f16 in %u %%",
                    mapped_seconds / own_seconds, share);
      report.note(line);
    }
  }
  report.finish();
}

}  // namespace

void add_mixture(cli::CommandLine& line) {
  const auto o = std::make_shared<MixtureOptions>();
  cli::Command command =
      line.add_command("mixture", "Tokens per second of a mixture of experts by memory budget, with cold page caches");
  o->add_to(command);
  command.add_option("model", o->model, ".nwc file, as `model --experts` writes it").required().existing_file();
  command.add_option("--mapped", o->mapped, "The same model with --raw: experts in f16, mapped, within the same memory")
      .existing_file();
  command.add_option("--shares", o->shares, "Budgets, in percent of what everything decoded takes").show_default();
  command.add_option("--tokens", o->tokens, "Tokens that are timed").range(2, 4096).show_default();
  command.add_option("--warm", o->warm, "Tokens before them, with which caches fill").range(8, 4096).show_default();
  command.add_option("--context", o->context, "Tokens of the KV cache").show_default();
  command.add_option("--weights", o->weights, "Form of decoded weights").one_of(weight_forms()).show_default();
  command.add_option("--child", o->child).group("");
  command.add_option("--choices", o->choices).group("");
  command.add_option("--budget", o->budget).group("");
  command.on_run([o] { run_mixture(*o); });
}

}  // namespace nwc::bench
