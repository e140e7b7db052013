// nwc eval: perplexity of a model on a text, its distance from the uncompressed model, and multiple-choice accuracy.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/embedder.h"
#include "host-tools/quality.h"
#include "runtime/engine/weight_type.h"
#include "trainer/data/fs_path.h"
#include "trainer/eval/compare_embeddings.h"
#include "trainer/eval/multiple_choice.h"

namespace nwc::cli {
namespace {

struct EvalCommand {
  QualityRequest request;
  std::string mode = "auto", weights, memory;
  std::vector<std::string> choices;
  std::string images, labels, text_model, text_reference;  ///< of encoders
  bool write_card = false;
};

void print_quality(const QualityResult& r) {
  const Evaluation& e = r.evaluation;
  fmt::print("{} on {}: {} tokens in windows of {}\n", r.model, r.text, format_count(e.tokens), e.context);
  fmt::print("  perplexity         {:.4f} +- {:.4f}\n", e.perplexity, e.perplexity_se);
  if (!r.has_reference) return;
  fmt::print("  of {}  {:.4f}\n", r.reference, e.reference_perplexity);
  fmt::print("  KL divergence      {:.6f} +- {:.6f} nats (95 % interval {:.6f} to {:.6f})\n", e.kld_mean, e.kld_se,
             e.kld_low, e.kld_high);
  fmt::print("  of a token         90 % below {:.5f}, 99 % below {:.5f}\n", e.kld_p90, e.kld_p99);
  fmt::print("  same top token     {:.2f} % +- {:.2f}\n", 100 * e.same_top, 100 * e.same_top_se);
}

struct ChoiceTask {
  std::string path;
  std::vector<ChoiceItem> items;
};

Result<std::vector<ChoiceTask>> read_tasks(const std::vector<std::string>& paths) {
  std::vector<ChoiceTask> tasks;
  for (const std::string& path : paths) {
    NWC_ASSIGN_OR_RETURN(const std::string text, read_text(path));
    Result<std::vector<ChoiceItem>> items = parse_choice_items(text);
    if (!items.ok()) return items.status().with_context(path);
    if (items->empty()) return invalid_argument(path + ": holds no questions");
    tasks.push_back({path, std::move(items).value()});
  }
  return tasks;
}

Result<std::vector<ChoiceResult>> answer_tasks(const std::string& path, const SessionParams& params,
                                               const DeviceOptions& device, const std::vector<ChoiceTask>& tasks,
                                               const Context& context, double share) {
  NWC_ASSIGN_OR_RETURN(EvalModel model, open_eval_model(path, params, device, context, share / 5));
  const auto encode = [&](const std::string& s) { return model.tokenizer->encode(s, {}); };
  std::vector<ChoiceResult> results;
  for (const ChoiceTask& task : tasks) {
    ProgressLine progress(context, "evaluating " + fs_path(task.path).stem().string(),
                          share / static_cast<double>(tasks.size()));
    Result<ChoiceResult> result = evaluate_choices(*model.session, encode, task.items, progress.callback());
    if (!result.ok()) return result.status().with_context(task.path);
    results.push_back(std::move(result).value());
  }
  return results;
}

uint64_t count_changed(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  uint64_t changed = 0;
  for (size_t i = 0; i < a.size(); ++i) changed += a[i] != b[i] ? 1 : 0;
  return changed;
}

/// One or several files of questions, a line of a table each, beside the reference where there is one.
Status eval_choices(const EvalCommand& command, const Context& context) {
  const QualityRequest& r = command.request;
  NWC_ASSIGN_OR_RETURN(const std::vector<ChoiceTask> tasks, read_tasks(command.choices));
  const bool compare = !r.reference.empty();
  NWC_ASSIGN_OR_RETURN(const std::vector<ChoiceResult> results,
                       answer_tasks(r.model, r.params, r.device, tasks, context, compare ? 0.5 : 1));
  std::vector<ChoiceResult> reference;
  if (compare) {
    NWC_ASSIGN_OR_RETURN(reference, answer_tasks(r.reference, exact_params(), r.device, tasks, context, 1));
  }
  nlohmann::json list = nlohmann::json::array();
  if (!context.json)
    fmt::print("{:24} {:>6} {:>15} {:>15}{}\n", "task", "items", "acc %", "acc_norm %",
               compare ? "       reference        changed" : "");
  for (size_t i = 0; i < tasks.size(); ++i) {
    const ChoiceResult& own = results[i];
    nlohmann::json json = {{"choices", tasks[i].path},
                           {"items", own.items},
                           {"accuracy", own.accuracy},
                           {"accuracy_se", own.accuracy_se},
                           {"accuracy_normalized", own.accuracy_normalized},
                           {"accuracy_normalized_se", own.accuracy_normalized_se}};
    const std::string name = fs_path(tasks[i].path).stem().string();
    if (!context.json)
      fmt::print("{:24} {:6} {:6.2f} +- {:5.2f} {:6.2f} +- {:5.2f}", name, own.items, 100 * own.accuracy,
                 100 * own.accuracy_se, 100 * own.accuracy_normalized, 100 * own.accuracy_normalized_se);
    if (compare) {
      const uint64_t changed = count_changed(own.chosen, reference[i].chosen);
      const uint64_t changed_normalized = count_changed(own.chosen_normalized, reference[i].chosen_normalized);
      json["reference_accuracy"] = reference[i].accuracy;
      json["reference_accuracy_normalized"] = reference[i].accuracy_normalized;
      json["changed"] = changed;
      json["changed_normalized"] = changed_normalized;
      if (!context.json)
        fmt::print("  {:6.2f} {:6.2f} {:6} {:6}", 100 * reference[i].accuracy, 100 * reference[i].accuracy_normalized,
                   changed, changed_normalized);
    }
    if (!context.json) fmt::print("\n");
    list.push_back(std::move(json));
  }
  if (!context.json) return {};
  nlohmann::json json = {{"model", r.model}, {"tasks", list}};
  if (compare) json["reference"] = r.reference;
  if (tasks.size() == 1) json.update(list.front());
  context.print_json(json);
  return {};
}

/// Embeddings of texts, or of pictures where the model is of these.
Result<Embeddings> embed_all(const std::string& path, const SessionParams& params, const DeviceOptions& device,
                             const std::vector<std::string>& inputs, const Context& context, double share) {
  NWC_ASSIGN_OR_RETURN(Embedder embedder, Embedder::open(path, params, device, context, share / 4));
  return embedder.embed_all(inputs, embedder.of_images(), context, share);
}

/// What an encoder is measured by: its embeddings beside those of the uncompressed model, and for a pair of encoders
/// how often both pairs find the same label.
Status eval_embeddings(const EvalCommand& command, const Context& context) {
  const QualityRequest& r = command.request;
  if (r.reference.empty()) return invalid_argument("an encoder is measured against the uncompressed one: --reference");
  if (command.images.empty() == r.text.empty())
    return invalid_argument(
        "give an encoder of texts --text, a file with a text in each line, or one of pictures --images");
  const bool zero_shot = !command.labels.empty();
  if (zero_shot && (command.images.empty() || command.text_model.empty() || command.text_reference.empty()))
    return invalid_argument("--labels needs --images, and the encoders of texts: --text-model and --text-reference");
  Result<std::vector<std::string>> inputs = command.images.empty() ? read_lines(r.text) : list_pictures(command.images);
  NWC_TRY(inputs.status());
  const SessionParams exact = exact_params();
  NWC_ASSIGN_OR_RETURN(const Embeddings model, embed_all(r.model, r.params, r.device, *inputs, context, 0.5));
  NWC_ASSIGN_OR_RETURN(const Embeddings reference, embed_all(r.reference, exact, r.device, *inputs, context, 0.5));
  if (model.front().size() != reference.front().size())
    return invalid_argument(fmt::format("the model's embeddings have {} numbers, the reference's {}",
                                        model.front().size(), reference.front().size()));
  const EmbeddingComparison compared = compare_embeddings(model, reference);
  nlohmann::json json = {{"model", r.model},
                         {"reference", r.reference},
                         {"inputs", compared.count},
                         {"cosine_mean", compared.cosine_mean},
                         {"cosine_se", compared.cosine_se},
                         {"cosine_p1", compared.cosine_p1},
                         {"cosine_min", compared.cosine_min}};
  if (!context.json) {
    fmt::print("{} against {}: {} {}\n", r.model, r.reference, format_count(compared.count),
               command.images.empty() ? "texts" : "pictures");
    fmt::print("  cosine similarity  {:.6f} +- {:.6f} (1 %: {:.6f}, least {:.6f})\n", compared.cosine_mean,
               compared.cosine_se, compared.cosine_p1, compared.cosine_min);
  }
  if (zero_shot) {
    NWC_ASSIGN_OR_RETURN(const std::vector<std::string> labels, read_lines(command.labels));
    NWC_ASSIGN_OR_RETURN(const Embeddings texts,
                         embed_all(command.text_model, r.params, r.device, labels, context, 0.5));
    NWC_ASSIGN_OR_RETURN(const Embeddings reference_texts,
                         embed_all(command.text_reference, exact, r.device, labels, context, 0.5));
    for (const Embeddings* of_texts : {&texts, &reference_texts}) {
      if (of_texts->front().size() != model.front().size())
        return invalid_argument(fmt::format("embeddings of labels have {} numbers, those of pictures {}",
                                            of_texts->front().size(), model.front().size()));
    }
    const ZeroShotComparison both = compare_zero_shot(model, texts, reference, reference_texts);
    json["labels"] = labels.size();
    json["same_top_label"] = both.same_top;
    json["same_top_label_se"] = both.same_top_se;
    json["chosen"] = both.chosen;
    json["reference_chosen"] = both.reference_chosen;
    if (!context.json)
      fmt::print("  same label of {:3}  {:.2f} % +- {:.2f}\n", labels.size(), 100 * both.same_top,
                 100 * both.same_top_se);
  }
  if (context.json) context.print_json(json);
  return {};
}

/// Is the model an encoder? Only its description is read.
Result<bool> is_encoder(const std::string& path, const Context& context) {
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(path, context));
  Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(input.reader));
  if (!file.ok()) return file.status().with_context(path);
  return (*file)->model() && (*file)->model()->is_encoder();
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
    ask_for(weight_type_named(command.weights), &params);
    params.fit_weight_dtype = false;  // what is measured is what was asked for
  }
  NWC_ASSIGN_OR_RETURN(const bool encoder, is_encoder(command.request.model, context));
  if (encoder && command.choices.empty()) return eval_embeddings(command, context);
  if (!command.images.empty() || !command.labels.empty())
    return unsupported(command.request.model + ": is no encoder, and takes neither --images nor --labels");
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

void add_eval(CommandLine& line, Context& context) {
  auto command = std::make_shared<EvalCommand>();
  Command sub = line.add_command("eval", "Measure a model on a text, against the uncompressed model");
  QualityRequest& request = command->request;
  sub.add_option("model", request.model, ".nwc file, Hugging Face folder or .gguf file").required();
  sub.add_option("--reference", request.reference,
                 "The uncompressed model: adds KL divergence, same-top rate and its perplexity");
  sub.add_option("--text", request.text, "UTF-8 text").existing_file();
  Option choices =
      sub.add_option("--choices", command->choices,
                     "Multiple choice instead: files of JSON lines {\"context\", \"choices\": [..], \"answer\": i}, as "
                     "scripts/make_choices.py makes them; scored as lm-evaluation-harness does (acc, acc_norm)")
          .existing_file();
  sub.add_option("--context", request.context, "Tokens per window (default: 2048, or the model's maximum)")
      .range(2u, UINT32_MAX);
  sub.add_option("--tokens", request.max_tokens, "Use only the first so many tokens of the text (default: all)")
      .range(uint64_t{1}, uint64_t{1} << 62);
  sub.add_option("--mode", command->mode, "auto, resident, cached, streamed or fused weights")
      .one_of({"auto", "resident", "cached", "streamed", "fused"})
      .show_default();
  sub.add_option("--weights", command->weights,
                 "What decoded weights are held as: f32, f16, bf16, or the coded integers as q8 or packed, where "
                 "there is a network rounded to 8 bits (default: f32; with --memory f16)")
      .one_of({"f32", "f16", "bf16", "q8", "packed"});
  sub.add_option("--memory", command->memory, "Hard memory budget of the model, like 600M; the KV cache is f16 then");
  sub.add_flag("--write-card", command->write_card, "Store the figures in the file's quality card");
  sub.add_option("--images", command->images,
                 "An encoder of pictures: a folder of PNG files. For an encoder of texts, each line of --text is one")
      .existing_folder();
  sub.add_option("--labels", command->labels,
                 "With --images: a file with a label in each line; adds how often both pairs of encoders find the same")
      .existing_file();
  sub.add_option("--text-model", command->text_model, "The encoder of texts that belongs to the model");
  sub.add_option("--text-reference", command->text_reference, "The uncompressed one");
  // They would be without effect.
  for (const char* option :
       {"--text", "--reference", "--context", "--tokens", "--write-card", "--images", "--labels"}) {
    choices.excludes(sub.option(option));
  }
  add_device_options(sub, request.device);
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "eval", [&] { return eval(*command, context); }); });
}

}  // namespace nwc::cli
