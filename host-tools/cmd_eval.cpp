// nwc eval: perplexity of a model on a text, its distance from the uncompressed model, and multiple-choice accuracy.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/quality.h"
#include "runtime/engine/weight_type.h"
#include "trainer/eval/multiple_choice.h"

namespace nwc::cli {
namespace {

struct EvalCommand {
  QualityRequest request;
  std::string mode = "auto", weights, memory, choices;
  bool write_card = false;
};

void print_quality(const QualityResult& r) {
  const Evaluation& e = r.evaluation;
  fmt::print("{} on {}: {} tokens in windows of {}\n", r.model, r.text, format_count(e.tokens), e.context);
  fmt::print("  perplexity         {:.4f} +- {:.4f}\n", e.perplexity, e.perplexity_se);
  if (!r.has_reference) return;
  fmt::print("  of {}  {:.4f}\n", r.reference, e.reference_perplexity);
  fmt::print("  KL divergence      {:.6f} +- {:.6f} nats (90 %: {:.5f}, 99 %: {:.5f})\n", e.kld_mean, e.kld_se,
             e.kld_p90, e.kld_p99);
  fmt::print("  same top token     {:.2f} % +- {:.2f}\n", 100 * e.same_top, 100 * e.same_top_se);
}

Status eval_choices(const EvalCommand& command, const Context& context) {
  NWC_ASSIGN_OR_RETURN(const std::string text, read_text(command.choices));
  Result<std::vector<ChoiceItem>> items = parse_choice_items(text);
  if (!items.ok()) return items.status().with_context(command.choices);
  if (items->empty()) return invalid_argument(command.choices + ": holds no questions");
  NWC_ASSIGN_OR_RETURN(EvalModel model,
                       open_eval_model(command.request.model, command.request.params, command.request.device, context));
  ProgressLine progress(context, "evaluating");
  const auto encode = [&](const std::string& s) { return model.tokenizer->encode(s, {}); };
  NWC_ASSIGN_OR_RETURN(const ChoiceResult result,
                       evaluate_choices(*model.session, encode, *items, progress.callback()));
  if (context.json)
    context.print_json({{"model", command.request.model},
                        {"choices", command.choices},
                        {"items", result.items},
                        {"accuracy", result.accuracy},
                        {"accuracy_se", result.accuracy_se},
                        {"accuracy_normalized", result.accuracy_normalized},
                        {"accuracy_normalized_se", result.accuracy_normalized_se}});
  else
    fmt::print("{} items: accuracy {:.2f} % +- {:.2f}, length-normalised {:.2f} % +- {:.2f}\n", result.items,
               100 * result.accuracy, 100 * result.accuracy_se, 100 * result.accuracy_normalized,
               100 * result.accuracy_normalized_se);
  return {};
}

Status eval(EvalCommand& command, Context& context) {
  SessionParams& params = command.request.params;
  params.mode = command.mode == "resident"   ? SessionMode::kResident
                : command.mode == "streamed" ? SessionMode::kStreamed
                : command.mode == "cached"   ? SessionMode::kCached
                : command.mode == "fused"    ? SessionMode::kFused
                                             : SessionMode::kAuto;
  // Decoded weights and the cache in f32, so that the figures are the codec's own. A memory budget asks for f16.
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  if (!command.memory.empty()) {
    NWC_ASSIGN_OR_RETURN(params.memory_budget_bytes, parse_budget(command.memory));
    params.device_window_bytes = window_bytes_within(params.memory_budget_bytes);
    params.weight_dtype = params.kv_dtype = Dtype::kF16;
  }
  if (!command.weights.empty()) {
    const auto is_asked = [&](const WeightTypeInfo& type) { return type.name == command.weights; };
    const auto type = std::find_if(std::begin(kWeightTypes), std::end(kWeightTypes), is_asked);
    ask_for(static_cast<WeightType>(type - std::begin(kWeightTypes)), &params);
    params.fit_weight_dtype = false;  // what is measured is what was asked for
  }
  if (!command.choices.empty()) return eval_choices(command, context);
  if (command.request.text.empty()) return invalid_argument("give a text with --text, or questions with --choices");
  if (command.write_card && command.request.reference.empty())
    return invalid_argument("a quality card needs the uncompressed model: --reference");
  if (command.write_card) NWC_TRY(check_quality_card(command.request.model));
  NWC_ASSIGN_OR_RETURN(const QualityResult result, measure_quality(command.request, context));
  if (command.write_card) NWC_TRY(write_quality_card(command.request.model, result));
  if (context.json)
    context.print_json(quality_json(result));
  else
    print_quality(result);
  return {};
}

}  // namespace

void add_eval(CLI::App& app, Context& context) {
  auto command = std::make_shared<EvalCommand>();
  CLI::App* sub = app.add_subcommand("eval", "Measure a model on a text, against the uncompressed model");
  QualityRequest& request = command->request;
  sub->add_option("model", request.model, ".nwc file, Hugging Face folder or .gguf file")->required();
  sub->add_option("--reference", request.reference,
                  "The uncompressed model: adds KL divergence, same-top rate and its perplexity");
  sub->add_option("--text", request.text, "UTF-8 text")->check(CLI::ExistingFile);
  CLI::Option* choices =
      sub->add_option("--choices", command->choices,
                      "Multiple choice instead: JSON lines {\"context\", \"choices\": [..], \"answer\": i}")
          ->check(CLI::ExistingFile);
  sub->add_option("--context", request.context, "Tokens per window (default: 2048, or the model's maximum)")
      ->check(CLI::Range(2u, UINT32_MAX));
  sub->add_option("--tokens", request.max_tokens, "Use only the first so many tokens of the text (default: all)")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 62));
  sub->add_option("--mode", command->mode, "auto, resident, cached, streamed or fused weights")
      ->check(CLI::IsMember({"auto", "resident", "cached", "streamed", "fused"}))
      ->capture_default_str();
  sub->add_option("--weights", command->weights,
                  "What decoded weights are held as: f32, f16, bf16, or the coded integers as q8 or packed, where "
                  "there is a network rounded to 8 bits (default: f32; with --memory f16)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8", "packed"}));
  sub->add_option("--memory", command->memory, "Hard memory budget of the model, like 600M; the KV cache is f16 then");
  sub->add_flag("--write-card", command->write_card, "Store the figures in the file's quality card");
  // They would be without effect.
  for (const char* option : {"--text", "--reference", "--context", "--tokens", "--write-card"}) {
    choices->excludes(sub->get_option(option));
  }
  add_device_options(sub, request.device);
  add_common_options(sub, context);
  sub->callback([command, &context] { run_command(context, "eval", [&] { return eval(*command, context); }); });
}

}  // namespace nwc::cli
