// nwc compress: a model into one .nwc file at a given number of bits per weight.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "host-tools/cli.h"
#include "host-tools/codec_path.h"
#include "host-tools/quality.h"
#include "trainer/calib/calibration.h"
#include "trainer/data/model_source.h"
#include "trainer/data/output_path.h"
#include "trainer/encode/encoder.h"

namespace nwc::cli {
namespace {

/// In the order of the enums.
const std::vector<std::string> kImportances = {"none", "flat", "paper", "waterfill"};
const std::vector<std::string> kAllocations = {"none", "weights", "fisher"};

template <typename Enum>
Enum by_name(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<Enum>(std::find(names.begin(), names.end(), name) - names.begin());
}

struct CompressCommand {
  std::string model, output, codec = "identity", card_text;
  uint64_t card_tokens = 8192;
  std::string quantizer = "trellis", importance = "waterfill", feedback = "ldlq", allocation = "fisher";
  std::string row_importance = "on", size;
  std::string calibration_text, calibration_cache;
  CalibrationOptions calibration;
  std::string recovery, shrinkage;
  std::optional<uint64_t> recovery_tokens;  ///< none: by effort
  std::optional<uint32_t> recovery_epochs;  ///< none: by effort
  std::optional<double> rdo;                ///< none: by what is known
  uint32_t effort = 5;
  std::optional<double> kld;  ///< target instead of a rate
  bool estimate = false;
  CompressOptions options;
};

double bpw(uint64_t bytes, uint64_t weights) {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

nlohmann::json report_json(const CompressReport& report, const CompressCommand& command, uint64_t source_bytes) {
  nlohmann::json tensors = nlohmann::json::array();
  double ideal_bits = 0;
  for (const TensorReport& t : report.tensors) {
    nlohmann::json tensor = {{"name", t.name},
                             {"storage", t.storage == Storage::kCoded ? "coded" : "raw"},
                             {"weights", t.weights},
                             {"stored_bytes", t.stored_bytes},
                             {"padding_bytes", t.padding_bytes}};
    if (t.storage == Storage::kCoded) {
      tensor.update({{"bpw", t.bpw()},
                     {"ideal_bits", t.ideal_bits},
                     {"side_bytes", t.side_bytes},
                     {"directory_bytes", t.directory_bytes},
                     {"state_bytes", t.state_bytes},
                     {"word_bytes", t.word_bytes},
                     {"relative_error", t.relative_error},
                     {"predicted_kld", t.predicted_kld}});
      ideal_bits += t.ideal_bits;
    }
    tensors.push_back(std::move(tensor));
  }
  const double coded_bits = 8.0 * static_cast<double>(report.coded_bytes + report.codec_bytes);
  return {{"output", command.output},
          {"codec", command.codec},
          {"bits", command.options.bits},
          {"bpw_coded", report.bpw_coded},
          {"bpw_file", report.bpw_file},
          {"bpw_codec", bpw(report.codec_bytes, report.coded_weights)},
          {"bpw_ideal", report.coded_weights == 0 ? 0 : ideal_bits / static_cast<double>(report.coded_weights)},
          {"overhead_percent", ideal_bits > 0 ? 100 * (coded_bits / ideal_bits - 1) : 0},
          {"source_bytes", source_bytes},
          {"file_bytes", report.file_bytes},
          {"coded_bytes", report.coded_bytes},
          {"codec_bytes", report.codec_bytes},
          {"metadata_bytes", report.metadata_bytes},
          {"coded_weights", report.coded_weights},
          {"total_weights", report.total_weights},
          {"relative_error", report.relative_error},
          {"levels", report.levels},
          {"tables", report.tables},
          {"predicted_kld", report.predicted_kld},
          {"passes", report.passes},
          {"seconds", report.seconds},
          {"tensors", std::move(tensors)}};
}

/// Everything that decides on the bytes, in an order that does not change.
std::string canonical_settings(const CompressOptions& o, const CompressCommand& command) {
  const CodingChoices& c = o.choices;
  std::string target = o.file_bytes != 0 ? fmt::format("size={}", o.file_bytes) : fmt::format("bits={}", o.bits);
  target += fmt::format(" trellis_bits={} rdo={} importance={} feedback={} allocation={} row_importance={} damping={}",
                        c.quantizer.trellis_bits, c.rdo_strength, kImportances[static_cast<size_t>(c.importance)],
                        c.feedback ? "ldlq" : "none", kAllocations[static_cast<size_t>(c.allocation)], c.row_importance,
                        c.damping);
  target += fmt::format(" row_classes={} head_bits={} shrinkage={} refit_tables={} min_elements={}",
                        c.quantizer.row_classes, c.head_bits, c.shrinkage, c.refit_tables, o.min_elements);
  target += fmt::format(" keep_source={}", o.keep_source);
  if (!command.calibration_text.empty())
    target += fmt::format(" calib_tokens={} calib_context={} calib_seed={}", command.calibration.tokens,
                          command.calibration.context, command.calibration.seed);
  if (command.recovery == "on")
    target +=
        fmt::format(" recovery_tokens={} recovery_epochs={}", *command.recovery_tokens, o.recovery.options.epochs);
  return target;
}

/// What the encoder spends on the search; doc/architecture.md, Effort, says what each step takes and gains.
struct Effort {
  uint32_t trellis_bits;
  uint64_t recovery_tokens;  ///< 0: no recovery
  uint32_t recovery_epochs;
};
constexpr Effort kEfforts[10] = {{},        {2, 0, 0},    {3, 0, 0},     {4, 0, 0},     {6, 0, 0},
                                 {8, 0, 0}, {8, 8192, 4}, {8, 16384, 8}, {8, 32768, 8}, {8, 65536, 8}};

/// Fills in what was not given.
void apply_effort(CompressCommand* c, const ModelSource& source) {
  CompressCommand& command = *c;
  CodingChoices* choices = &command.options.choices;
  const Effort& effort = kEfforts[command.effort];
  if (command.quantizer == "scalar") {
    choices->quantizer.trellis_bits = 0;
  } else if (choices->quantizer.trellis_bits == 0) {
    choices->quantizer.trellis_bits = effort.trellis_bits;
  }
  const bool calibrated = !command.calibration_text.empty();
  if (command.recovery.empty()) command.recovery = calibrated && effort.recovery_tokens != 0 ? "on" : "off";
  if (!command.recovery_tokens) command.recovery_tokens = effort.recovery_tokens != 0 ? effort.recovery_tokens : 16384;
  command.options.recovery.options.epochs =
      command.recovery_epochs.value_or(effort.recovery_epochs != 0 ? effort.recovery_epochs : 8);
  // Both lower the squared error and attenuate the weights, which adds up over the layers unless recovery makes up for
  // it (doc/architecture.md, Encoder).
  const bool attenuate = !calibrated || command.recovery == "on";
  choices->rdo_strength = command.rdo.value_or(attenuate ? 0.5 : 0);
  choices->shrinkage = command.shrinkage.empty() ? attenuate : command.shrinkage == "on";
  choices->importance = by_name<Importance>(kImportances, command.importance);
  choices->feedback = command.feedback == "ldlq";
  choices->allocation = by_name<Allocation>(kAllocations, command.allocation);
  choices->row_importance = command.row_importance == "on";
  *choices = settle(*choices, source, calibrated);
}

/// The text's tokens for recovery fine-tuning.
Status prepare_recovery(const CompressCommand& command, const ModelSource& source, const std::string& text,
                        RecoveryFiles* files, RecoveryChoices* out) {
  NWC_ASSIGN_OR_RETURN(out->tokens, calibration_tokens(source, text, *command.recovery_tokens));
  out->context = calibration_context(*source.model(), command.calibration.context);
  out->files = files;
  out->enabled = true;
  return {};
}

std::string cache_folder(const CompressCommand& command) {
  return command.calibration_cache.empty() ? command.output + ".calibration" : command.calibration_cache;
}

Result<std::unique_ptr<Calibration>> calibrate(const CompressCommand& command, const ModelSource& source,
                                               const std::string& text, Context& context) {
  const std::unique_ptr<Runner> runner = make_thread_pool(context.threads);
  ProgressLine progress(context, "calibrating");
  return Calibration::run(source, text, command.calibration, cache_folder(command), *runner, progress.callback(),
                          context.logger());
}

/// compress_model with a progress line that says what an interrupted run had done already.
Result<CompressReport> compress_once(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                                     const std::string& label, const Context& context) {
  struct Line {
    ProgressLine progress;
    const RecoveryFiles* files;
  } line{{context, label}, command.options.recovery.files};
  const Progress progress{[](void* user, uint64_t done, uint64_t total) {
                            Line* l = static_cast<Line*>(user);
                            const uint32_t taken = l->files != nullptr ? l->files->taken() : 0;
                            return l->progress.report(
                                done, total, taken == 0 ? "" : fmt::format("{} blocks from an earlier run", taken));
                          },
                          &line};
  return compress_model(source, codec, command.options, command.output, progress, context.logger());
}

/// A file that is larger than what it was made from helps nobody.
void warn_if_larger(const ModelSource& source, uint64_t file_bytes, const Context& context) {
  if (file_bytes <= source.stored_bytes()) return;
  uint64_t weights = 0;
  for (const SourceTensor& tensor : source.tensors()) weights += tensor.num_elements();
  context.logger().log(
      LogLevel::kWarning,
      fmt::format("the result is larger than the source, {} bytes from {}: the weights are already quantized at {:.2f} "
                  "bits there; ask for fewer",
                  format_count(file_bytes), format_count(source.stored_bytes()), bpw(source.stored_bytes(), weights)));
}

Status print_estimate(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                      Context& context) {
  CompressEstimate estimate;
  {
    ProgressLine progress(context, "estimating");
    NWC_ASSIGN_OR_RETURN(estimate, estimate_compress(source, codec, command.options, progress.callback()));
  }
  warn_if_larger(source, estimate.file_bytes, context);
  if (context.json) {
    context.print_json({{"file_bytes", estimate.file_bytes},
                        {"bpw_coded", estimate.bits},
                        {"predicted_kld", estimate.predicted_kld},
                        {"seconds", estimate.seconds},
                        {"memory_bytes", estimate.memory_bytes}});
    return {};
  }
  fmt::print("{}: about {} ({:.2f} bits per coded weight), {:.0f} s, {} of memory\n", command.model,
             format_bytes(estimate.file_bytes), estimate.bits, std::ceil(estimate.seconds),
             format_bytes(estimate.memory_bytes));
  if (estimate.predicted_kld > 0) fmt::print("  predicted KL divergence {:.5f}\n", estimate.predicted_kld);
  return {};
}

/// The text on which the file is compared with the original; empty: none was given.
const std::string& measured_text(const CompressCommand& command) {
  return command.card_text.empty() ? command.calibration_text : command.card_text;
}

QualityRequest quality_request(const CompressCommand& command, const std::string& text) {
  QualityRequest request;
  request.model = command.output;
  request.reference = command.model;
  request.text = text;
  request.max_tokens = command.card_tokens;
  return request;
}

/// Looks for the rate whose measured KL divergence is the one asked for: each bit less multiplies it by about 4.
Result<CompressReport> reach_kld(CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                                 Context& context) {
  constexpr double kClose = 0.03;  ///< relative
  constexpr int kMostFiles = 5;
  const QualityRequest request = quality_request(command, measured_text(command));
  CompressOptions& options = command.options;
  double slope = -std::log(4.0), last_bits = 0, last_log = 0;
  for (int file = 1;; ++file) {
    const std::string label = fmt::format("compressing to {:.3f} bits", options.bits);
    NWC_ASSIGN_OR_RETURN(CompressReport report, compress_once(command, source, codec, label, context));
    NWC_ASSIGN_OR_RETURN(const QualityResult quality, measure_quality(request, context));
    const double kld = std::max(quality.evaluation.kld_mean, 1e-9);
    context.logger().log(LogLevel::kInfo,
                         fmt::format("{:.4f} bits per weight: KL divergence {:.5f}", report.bpw_coded, kld));
    if (std::abs(kld / *command.kld - 1) < kClose) return report;
    if (file == kMostFiles) {
      context.logger().log(LogLevel::kWarning, fmt::format("KL divergence {:.5f} is as close to {:.5f} as {} files got",
                                                           kld, *command.kld, kMostFiles));
      return report;
    }
    const double here = std::log(kld);
    if (file > 1 && std::abs(report.bpw_coded - last_bits) > 0.01)
      slope = std::clamp((here - last_log) / (report.bpw_coded - last_bits), -3.0, -0.5);
    last_bits = report.bpw_coded;
    last_log = here;
    options.bits = std::clamp(report.bpw_coded + (std::log(*command.kld) - here) / slope, 0.5, 10.0);
  }
}

/// Before anything is read: the output can be written, and is none of the files that are read.
Status check_output(const CompressCommand& command) {
  if (command.estimate) return {};
  std::vector<std::string> inputs = {command.model, command.calibration_text, command.card_text};
  if (command.codec != "identity") {
    NWC_ASSIGN_OR_RETURN(inputs.emplace_back(), find_codec(command.codec));
  }
  const Output output{command.output};
  return check_outputs({&output, 1}, inputs);
}

/// Before anything is encoded: what is to be measured afterwards can be measured.
Status check_measurement(const CompressCommand& command, const ModelSource& source) {
  const std::string text = measured_text(command);
  if (command.kld && text.empty())
    return invalid_argument("--kld needs a text to measure on: --card TEXT or --calib TEXT");
  if (command.estimate || (command.card_text.empty() && !command.kld)) return {};
  const char* option = command.kld ? "--kld" : "--card";
  if (!source.model() || !source.tokenizer())
    return unsupported(command.model + ": " + option + " evaluates the model, which has no " +
                       (source.model() ? "tokenizer" : "model description") + " here" +
                       (source.note().empty() ? "" : ": " + source.note()));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::create(*source.tokenizer()));
  NWC_ASSIGN_OR_RETURN(const std::string content, read_text(text));
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, tokenizer->encode(content, {.add_special = false}));
  if (tokens.size() >= 2) return {};
  return invalid_argument(text + ": the text of " + option + " is too short, it has " + std::to_string(tokens.size()) +
                          " tokens where 2 are needed");
}

Status compress(CompressCommand& command, Context& context) {
  NWC_TRY(check_output(command));
  NWC_ASSIGN_OR_RETURN(const CodecModel codec, open_codec(command.codec));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, open_model_source(command.model));
  NWC_TRY(check_measurement(command, *source));
  if (command.recovery == "on" && command.calibration_text.empty())
    return invalid_argument("--recovery on needs --calib TEXT");

  CompressOptions& options = command.options;
  options.threads = context.threads;
  std::filesystem::path path(command.model);
  if (!path.has_filename()) path = path.parent_path();
  options.source_name = path.filename().string();
  apply_effort(&command, *source);
  if (!command.size.empty()) {
    NWC_ASSIGN_OR_RETURN(options.file_bytes, parse_bytes(command.size));
    if (options.file_bytes == 0) return invalid_argument("--size " + command.size + ": must be above 0");
  }
  options.settings = canonical_settings(options, command);
  std::unique_ptr<Calibration> calibration;
  RecoveryFiles recovery_files(cache_folder(command) + "/recovery");
  if (!command.calibration_text.empty()) {
    NWC_ASSIGN_OR_RETURN(const std::string text, read_text(command.calibration_text));
    NWC_ASSIGN_OR_RETURN(calibration, calibrate(command, *source, text, context));
    options.calibration = calibration.get();
    if (command.recovery == "on") NWC_TRY(prepare_recovery(command, *source, text, &recovery_files, &options.recovery));
  }
  if (command.estimate) return print_estimate(command, *source, codec, context);
  CompressReport report;
  if (command.kld) {
    NWC_ASSIGN_OR_RETURN(report, reach_kld(command, *source, codec, context));
  } else {
    NWC_ASSIGN_OR_RETURN(report, compress_once(command, *source, codec, "compressing", context));
  }
  nlohmann::json json = report_json(report, command, source->stored_bytes());
  if (!command.card_text.empty()) {
    NWC_ASSIGN_OR_RETURN(const QualityResult quality,
                         measure_quality(quality_request(command, command.card_text), context));
    NWC_TRY(write_quality_card(command.output, quality));
    json["quality"] = quality_json(quality);
    std::error_code ignored;
    json["file_bytes"] = std::filesystem::file_size(command.output, ignored);
  }
  // Not sooner: a search for a KL divergence, and the card, come back to the same blocks. Not never: they are as large
  // as the model in f32, and of use to these very settings only, whose file is there now.
  recovery_files.remove(context.logger());
  warn_if_larger(*source, json["file_bytes"].get<uint64_t>(), context);
  if (context.json) {
    context.print_json(json);
    return {};
  }
  const uint64_t file_bytes = json["file_bytes"].get<uint64_t>();
  fmt::print("{} -> {}\n", command.model, command.output);
  fmt::print(
      "  {} -> {} ({:.1f} % of the original)\n", format_bytes(source->stored_bytes()), format_bytes(file_bytes),
      100.0 * static_cast<double>(file_bytes) / static_cast<double>(std::max<uint64_t>(1, source->stored_bytes())));
  fmt::print("  {:.4f} bits per coded weight ({} weights, codec {}), {:.4f} over the whole file\n", report.bpw_coded,
             format_count(report.coded_weights), codec.name, report.bpw_file);
  fmt::print("  overhead above the symbols' entropy {:.2f} %, ", json["overhead_percent"].get<double>());
  // Error that costs nothing is let grow: only the predicted divergence says how good a calibrated file is.
  if (report.predicted_kld > 0) {
    fmt::print("predicted KL divergence {:.5f}\n", report.predicted_kld);
  } else {
    fmt::print("squared error {:.3g} of the weights' power\n", report.relative_error);
  }
  fmt::print("  {:.1f} s, {} {}\n", report.seconds, report.passes, report.passes == 1 ? "pass" : "passes");
  if (json.contains("quality"))
    fmt::print("  perplexity {:.3f} (original {:.3f}), KL divergence {:.5f}\n", json["quality"]["ppl"].get<double>(),
               json["quality"]["ppl_reference"].get<double>(), json["quality"]["kld_mean"].get<double>());
  return {};
}

}  // namespace

void add_compress(CLI::App& app, Context& context) {
  auto command = std::make_shared<CompressCommand>();
  CLI::App* sub = app.add_subcommand("compress", "Compress a model into one .nwc file");
  sub->add_option("model", command->model, "Hugging Face folder, .gguf or .safetensors file")->required();
  sub->add_option("-o,--output", command->output, "File to write (.nwc)")->required();
  sub->add_option("-b,--bits", command->options.bits,
                  "Bits per coded weight, everything included; met within 0.02 by real file bytes")
      ->check(CLI::Range(0.1, 16.0))
      ->capture_default_str();
  sub->add_option("-c,--codec", command->codec, "identity, linear, small, or a .nwcc file")->capture_default_str();
  sub->add_option("--size", command->size, "Size of the whole file instead, never exceeded: 600M, 1.5G")
      ->excludes("--bits");
  sub->add_option("--kld", command->kld,
                  "KL divergence from the original instead, measured on the text of --card or --calib; a few files are "
                  "made and measured")
      ->check(CLI::PositiveNumber)
      ->excludes("--bits")
      ->excludes("--size");
  sub->add_flag("--estimate", command->estimate, "Say size, time and memory, write nothing");
  sub->add_option("--calib", command->calibration_text,
                  "Text to measure on what an error of each weight costs; without it the model's weights alone decide")
      ->check(CLI::ExistingFile);
  sub->add_option("--calib-tokens", command->calibration.tokens, "Tokens of that text to use")
      ->check(CLI::Range(uint64_t{2}, uint64_t{1} << 40))
      ->capture_default_str();
  sub->add_option("--calib-context", command->calibration.context, "Tokens per sequence; 0: at most 512");
  sub->add_option(
      "--calib-cache", command->calibration_cache,
      "Folder that keeps the measurements for another run, and what recovery fine-tuning has done until the "
      "file is written: the same command goes on where it was interrupted. May be deleted, to be made "
      "again; default: OUTPUT.calibration");
  sub->add_option("-e,--effort", command->effort,
                  "Work spent, 1 to 9: 4, 8, 16, 64, 256 states of the trellis; with --calib from 6 on recovery "
                  "fine-tuning as well, on 8,192, 16,384, 32,768, 65,536 tokens")
      ->check(CLI::Range(1, 9))
      ->capture_default_str();
  sub->add_option("--head-bits", command->options.choices.head_bits,
                  "Without --calib: bits per weight that embedding and output head get above the rest")
      ->check(CLI::Range(0.0, 8.0))
      ->capture_default_str();
  const std::string studies = "For studies";
  sub->add_option("--quantizer", command->quantizer, "scalar or trellis")
      ->check(CLI::IsMember({"scalar", "trellis"}))
      ->capture_default_str()
      ->group(studies);
  sub->add_option("--trellis-bits", command->options.choices.quantizer.trellis_bits,
                  "State bits of the trellis, 2 to 6 or 8; 0: by --effort")
      ->check(CLI::IsMember({0, 2, 3, 4, 5, 6, 8}))
      ->default_val(0)
      ->group(studies);
  sub->add_option("--importance", command->importance,
                  "Steps of columns: none (equal rates), flat (equal steps), paper (four levels by diag(H)), waterfill "
                  "(by LDLQ's diagonal); without --calib flat for the last two, and none for bare tensors")
      ->check(CLI::IsMember(kImportances))
      ->group(studies);
  sub->add_option("--feedback", command->feedback, "none or ldlq, which needs --calib")
      ->check(CLI::IsMember({"none", "ldlq"}))
      ->group(studies);
  sub->add_option("--allocation", command->allocation,
                  "Rates of tensors: none (equal), weights (equal exchange of bits against squared error) or fisher "
                  "(against KL divergence); without --calib weights, and none for bare tensors")
      ->check(CLI::IsMember(kAllocations))
      ->group(studies);
  sub->add_option("--row-importance", command->row_importance, "on: steps by row as well, with --allocation fisher")
      ->check(CLI::IsMember({"on", "off"}))
      ->group(studies);
  sub->add_option("--recovery", command->recovery,
                  "on: tune the uncoded layers of a block after each coded one, on the text of --calib; default: by "
                  "--effort")
      ->check(CLI::IsMember({"on", "off"}))
      ->group(studies);
  sub->add_option("--recovery-tokens", command->recovery_tokens, "Tokens of that text to tune on; default: by --effort")
      ->check(CLI::Range(uint64_t{2}, uint64_t{1} << 40))
      ->group(studies);
  sub->add_option("--recovery-epochs", command->recovery_epochs,
                  "Times that they are gone through; default: by --effort")
      ->check(CLI::Range(1u, 10000u))
      ->group(studies);
  sub->add_flag("--row-classes,!--no-row-classes", command->options.choices.quantizer.row_classes,
                "Tables by class of row, with a linear codec (default: on)")
      ->group(studies);
  sub->add_option("--damping", command->options.choices.damping, "Of Hessians, times the mean of the diagonal")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str()
      ->group(studies);
  sub->add_option("--rdo", command->rdo,
                  "Rate-distortion optimised search; 0: nearest points, 1: at the slope of the level; default: 0.5, "
                  "but 0 with --calib and without recovery")
      ->check(CLI::Range(0.0, 4.0))
      ->group(studies);
  sub->add_option("--shrinkage", command->shrinkage,
                  "on: reconstruct at the mean of what is rounded there; default: on, but off with --calib and without "
                  "recovery")
      ->check(CLI::IsMember({"on", "off"}))
      ->group(studies);
  sub->add_flag("--refit-tables,!--no-refit-tables", command->options.choices.refit_tables,
                "Fit the entropy tables to this model (default: on)")
      ->group(studies);
  sub->add_option("--min-elements", command->options.min_elements, "Smaller tensors are stored raw")
      ->capture_default_str();
  sub->add_flag("--source,!--no-source", command->options.keep_source,
                "Keep configuration, tokenizer and chat template, or a GGUF's metadata, as they are, so that decompress "
                "can write them back (default: on)");
  sub->add_option("--card", command->card_text,
                  "Measure quality against the original on this text, and store it in the file's quality card")
      ->check(CLI::ExistingFile);
  sub->add_option("--card-tokens", command->card_tokens, "Most tokens for --card; 0: all of the text")
      ->capture_default_str();
  add_common_options(sub, context);
  sub->callback([command, &context] { run_command(context, "compress", [&] { return compress(*command, context); }); });
}

}  // namespace nwc::cli
