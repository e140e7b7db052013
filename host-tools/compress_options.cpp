// The options of `nwc compress`, and what the encoder is told when some are not given.
#include <fmt/format.h>

#include <algorithm>

#include "host-tools/compress_command.h"
#include "runtime/base/checked.h"

namespace nwc::cli {
namespace {

/// In the order of the enums.
const std::vector<std::string> kImportances = {"none", "flat", "paper", "waterfill"};
const std::vector<std::string> kAllocations = {"none", "weights", "fisher"};

constexpr const char* kCalibrationKinds[] = {"none", "self", "text", "images"};  ///< by CalibrationPlan::Kind

template <typename Enum>
Enum by_name(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<Enum>(std::find(names.begin(), names.end(), name) - names.begin());
}

/// What the encoder spends on the search; doc/architecture.md, Effort, says what each step takes and gains.
struct Effort {
  uint32_t trellis_bits;
  uint64_t recovery_tokens;  ///< 0: no recovery
  uint32_t recovery_epochs;
  bool drift;
  uint32_t distill_epochs;  ///< over kOftenTokens or fewer; fewer epochs over more tokens; 0: no distillation
};
constexpr Effort kEfforts[10] = {{},
                                 {4, 0, 0, false, 0},
                                 {5, 0, 0, false, 0},
                                 {6, 0, 0, false, 0},
                                 {8, 0, 0, false, 0},
                                 {10, 0, 0, false, 2},
                                 {10, 0, 0, true, 2},
                                 {10, 16384, 8, false, 4},
                                 {12, 32768, 8, false, 4},
                                 {12, 65536, 8, false, 4}};
/// Of distillation: up to kDistillTokens, other tokens do more for a general model than other epochs
/// (doc/measurements.md).
constexpr uint64_t kOftenTokens = 16384;
/// Steps of distillation where drift is corrected, a quarter of the usual ones, which are too long for what is left.
constexpr double kRateAfterDrift = 5e-4;

}  // namespace

std::string canonical_settings(const CompressOptions& o, const CompressCommand& command) {
  const CodingChoices& c = o.choices;
  std::string target = o.file_bytes != 0 ? fmt::format("size={}", o.file_bytes) : fmt::format("bits={}", o.bits);
  target += fmt::format(
      " trellis_bits={} rdo={} importance={} feedback={} allocation={} row_importance={} damping={} "
      "allocation_damping={}",
      c.quantizer.trellis_bits, c.rdo_strength, kImportances[static_cast<size_t>(c.importance)],
      c.feedback ? "ldlq" : "none", kAllocations[static_cast<size_t>(c.allocation)], c.row_importance, c.damping,
      c.allocation_damping);
  target += fmt::format(" row_classes={} head_bits={} shrinkage={} refit_tables={} min_elements={}",
                        c.quantizer.row_classes, c.head_bits, c.shrinkage, c.refit_tables, o.min_elements);
  target += fmt::format(" keep_source={}", o.keep_source);
  if (command.calibration_kind != CalibrationPlan::Kind::kNone)
    target += fmt::format(" calib={} calib_tokens={} calib_context={} calib_seed={}",
                          kCalibrationKinds[static_cast<size_t>(command.calibration_kind)], command.calibration.tokens,
                          command.calibration.context, command.calibration.seed);
  if (command.powers != nullptr) target += " calib=imatrix";
  if (command.recovery == "on")
    target +=
        fmt::format(" recovery_tokens={} recovery_epochs={}", *command.recovery_tokens, o.recovery.options.epochs);
  if (command.drift == "on") target += fmt::format(" drift_tokens={}", command.drift_tokens);
  if (command.distillation == "on")
    target += fmt::format(" distill_tokens={} distill_epochs={}", command.distill_tokens, o.distillation.epochs);
  return target;
}

void apply_effort(CompressCommand* c, const ModelSource& source) {
  CompressCommand& command = *c;
  CodingChoices* choices = &command.options.choices;
  const Effort& effort = kEfforts[command.effort];
  if (command.quantizer == "scalar") {
    choices->quantizer.trellis_bits = 0;
  } else if (choices->quantizer.trellis_bits == 0) {
    choices->quantizer.trellis_bits = effort.trellis_bits;
  }
  const bool calibrated = command.calibration_kind != CalibrationPlan::Kind::kNone;
  const bool tunes = calibrated && command.calibration_kind != CalibrationPlan::Kind::kImages;
  if (command.recovery.empty())
    command.recovery = tunes && effort.recovery_tokens != 0 && command.drift != "on" ? "on" : "off";
  if (source.model())
    command.calibration.tokens = command.calib_tokens.value_or(std::max(
        default_calibration_tokens(*source.model(), command.effort), command.effort > 7 ? effort.recovery_tokens : 0));
  if (!command.recovery_tokens) command.recovery_tokens = effort.recovery_tokens != 0 ? effort.recovery_tokens : 16384;
  command.options.recovery.options.epochs =
      command.recovery_epochs.value_or(effort.recovery_epochs != 0 ? effort.recovery_epochs : 8);
  const bool predicts = tunes && source.model() && !source.model()->is_encoder();
  if (command.distillation.empty()) command.distillation = predicts && effort.distill_epochs != 0 ? "on" : "off";
  if (command.drift.empty()) command.drift = tunes && effort.drift && command.recovery == "off" ? "on" : "off";
  if (command.drift == "on") command.options.distillation.learning_rate = kRateAfterDrift;
  command.distill_tokens = std::min(command.calibration.tokens, kDistillTokens);
  command.drift_tokens = std::min(command.distill_tokens, default_drift_tokens(source));
  if (effort.distill_epochs != 0) {
    const uint64_t tokens = std::max(command.distill_tokens, kOftenTokens);
    command.options.distillation.epochs = static_cast<uint32_t>(ceil_div(effort.distill_epochs * kOftenTokens, tokens));
  }
  // Both lower the squared error and attenuate the weights, which adds up over the layers unless recovery makes up for
  // it (doc/architecture.md, Encoder).
  const bool attenuate = !calibrated || command.recovery == "on";
  choices->rdo_strength = command.rdo.value_or(attenuate ? 0.5 : 0);
  choices->shrinkage = command.shrinkage.empty() ? attenuate : command.shrinkage == "on";
  choices->importance = by_name<Importance>(kImportances, command.importance);
  choices->feedback = command.feedback == "ldlq";
  choices->allocation = by_name<Allocation>(kAllocations, command.allocation);
  choices->row_importance = command.row_importance == "on";
  *choices = settle(*choices, source, calibrated, command.powers != nullptr);
}

void add_compress_options(Command sub, CompressCommand* command) {
  sub.add_option("model", command->model, "Hugging Face folder, .gguf or .safetensors file").required();
  sub.add_option("-o,--output", command->output, "File to write (.nwc)").required();
  sub.add_option(
         "-b,--bits", command->options.bits,
         "Bits per coded weight, tables and all else that decoding needs included, 0.1 to 16; met within 0.02, or the "
         "file is smaller because the weights need no more")
      .range(0.1, 16.0)
      .show_default();
  sub.add_option(
         "-c,--codec", command->codec,
         "How weights are transformed before they are rounded: identity (the fastest, and the best measured), linear, "
         "small (a network, slow to decode), or a .nwcc file made by nwc train")
      .show_default();
  sub.add_option("--size", command->size,
                 "Size of the whole file instead of --bits, never exceeded: 600M, 1.5G (powers of 1024)")
      .excludes("--bits");
  sub.add_option(
         "--kld", command->kld,
         "Distance from the original instead of --bits: the KL divergence of its predictions, in nats per token. Up "
         "to 6 files are made and measured on the text of --card, else on the last part of the first text of "
         "--calib, which calibration then does not use, or on more text that the model writes; the file gets a "
         "quality card")
      .positive()
      .excludes("--bits")
      .excludes("--size");
  sub.add_flag("--estimate", command->estimate,
               "Say how large the file will be, and what time and memory it takes; writes nothing, takes some seconds");
  sub.add_option(
         "--calib", command->calib,
         "On what is measured what an error of each weight costs (calibration), which brings a file several "
         "times closer to the original: self, a text that the model writes itself; UTF-8 texts or folders of "
         ".txt files, which share the tokens equally; for an encoder of images, PNG files or folders of them; or none "
         "(default: self where the model can be run)")
      .one_at_a_time();
  sub.add_option(
         "--imatrix", command->imatrix,
         "An importance matrix of this model, made by llama.cpp's llama-imatrix (.gguf or .dat): columns of large "
         "inputs are rounded more finely. For models that nwc cannot run; where it can, --calib self brings more")
      .existing_file();
  sub.add_option("--calib-tokens", command->calib_tokens,
                 "Tokens that calibration uses, of a text from its start (default: 32 for each input of the widest "
                 "layer, 49152 to 65536; with --effort below 5 and for encoders four for each, 16384 to 65536; and "
                 "as many as fine-tuning uses)")
      .range(uint64_t{2}, uint64_t{1} << 40);
  sub.add_option("--calib-context", command->calibration.context,
                 "Tokens that the model sees together in calibration; 0: 512, or the model's maximum if that is less")
      .show_default();
  sub.add_option("--seed", command->calibration.seed,
                 "Seed of the text that the model writes and of calibration's random signs: the same seed, the same "
                 "file; with others a figure's error can be told")
      .show_default();
  sub.add_option(
      "--calib-cache", command->calibration_cache,
      "Folder that keeps calibrations for further files of the same model and text, whatever their names, and "
      "what an interrupted run has done, so that the same command goes on. May be deleted (default: "
      "calibration in the user's cache, $XDG_CACHE_HOME/nwc or ~/.cache/nwc)");
  sub.add_option("--calib-cache-size", command->cache_size,
                 "When a file is finished, the calibrations that were not used for the longest time are removed until "
                 "all together take no more than this; the one in use stays")
      .show_default();
  sub.add_option(
         "-e,--effort", command->effort,
         "Time spent on a closer file, 1 (fastest) to 9: up to 5, 8 and 9 by searching for better roundings; with "
         "calibration also by tuning the finished file's gains from 5 on, and from 6 on by fine-tuning what is "
         "not coded yet on 8,192 to 65,536 tokens of the text (hours for large models)")
      .range(1, 9)
      .show_default();
  sub.add_option("--head-bits", command->options.choices.head_bits,
                 "Without calibration: bits per weight that embedding and output layer get above the rest, 0 to 8")
      .range(0.0, 8.0)
      .show_default();
  const std::string studies = "For studies";
  sub.add_option("--quantizer", command->quantizer,
                 "How weights are rounded: scalar (one by one) or trellis (together)")
      .one_of({"scalar", "trellis"})
      .show_default()
      .group(studies);
  sub.add_option("--trellis-bits", command->options.choices.quantizer.trellis_bits,
                 "The trellis has 2 to the power of this many states: 2 to 6, 8, 10 or 12; 0: by --effort")
      .one_of_numbers({0, 2, 3, 4, 5, 6, 8, 10, 12})
      .default_text("0")
      .group(studies);
  sub.add_option(
         "--importance", command->importance,
         "How finely columns are rounded against each other: none (equal bits), flat (equal precision), paper (four "
         "classes by the power of their inputs), waterfill (by what their errors cost); without calibration flat "
         "for the last two, and none for bare tensors")
      .one_of(kImportances)
      .group(studies);
  sub.add_option("--feedback", command->feedback,
                 "Whether later columns make up for the rounding errors of earlier ones: none, or ldlq, which needs "
                 "calibration")
      .one_of({"none", "ldlq"})
      .group(studies);
  sub.add_option("--allocation", command->allocation,
                 "How bits are shared out among tensors: none (equally), weights (by squared error) or fisher (by KL "
                 "divergence); without calibration weights, and none for bare tensors")
      .one_of(kAllocations)
      .group(studies);
  sub.add_option("--row-importance", command->row_importance,
                 "on: rows are rounded more or less finely, too, with --allocation fisher")
      .one_of({"on", "off"})
      .group(studies);
  sub.add_option("--recovery", command->recovery,
                 "on: fine-tune the layers of a block that are not coded yet after each one that is, on the text of "
                 "calibration; default: by --effort")
      .one_of({"on", "off"})
      .group(studies);
  sub.add_flag("--activations", command->calibration.activations,
               "Calibration keeps the second moments of activations, too, as it does with --allocation none or weights")
      .group(studies);
  sub.add_option(
         "--drift", command->drift,
         "on: move the weights of each product, before it is coded, so that they make up for the errors of what "
         "is coded before it, on the text of calibration; in place of --recovery; default: by --effort")
      .one_of({"on", "off"})
      .group(studies);
  sub.add_option("--distillation", command->distillation,
                 "on: tune the finished file's gains and biases until its predictions are the closest to the "
                 "original's, on the text of calibration; the file does not grow; default: by --effort")
      .one_of({"on", "off"})
      .group("For studies");
  sub.add_option("--recovery-tokens", command->recovery_tokens,
                 "Tokens of that text to fine-tune on; default: by --effort")
      .range(uint64_t{2}, uint64_t{1} << 40)
      .group(studies);
  sub.add_option("--recovery-epochs", command->recovery_epochs,
                 "How many times these tokens are gone through; default: by --effort")
      .range(1u, 10000u)
      .group(studies);
  sub.add_flag("--row-classes,!--no-row-classes", command->options.choices.quantizer.row_classes,
               "Tables of their own for rows of unlike size, where the codec is linear (default: on)")
      .group(studies);
  sub.add_option("--damping", command->options.choices.damping,
                 "For error feedback: added to the diagonal of each matrix of calibration, as a multiple of the "
                 "diagonal's median, 0 to 10")
      .range(0.0, 10.0)
      .show_default()
      .group(studies);
  sub.add_option("--allocation-damping", command->options.choices.allocation_damping,
                 "The same where bits are shared out among columns and tensors")
      .range(0.0, 10.0)
      .show_default()
      .group(studies);
  sub.add_option("--rdo", command->rdo,
                 "How far roundings are chosen that take fewer bits, 0 (nearest values) to 4; default: 0.5, but 0 with "
                 "calibration and without fine-tuning")
      .range(0.0, 4.0)
      .group(studies);
  sub.add_option(
         "--shrinkage", command->shrinkage,
         "on: decode each rounded value as the mean of the weights that were rounded to it; default: on, but off with "
         "--calib and without fine-tuning")
      .one_of({"on", "off"})
      .group(studies);
  sub.add_flag("--refit-tables,!--no-refit-tables", command->options.choices.refit_tables,
               "Fit the tables of the entropy coder to this model (default: on)")
      .group(studies);
  sub.add_option("--min-elements", command->options.min_elements, "Tensors of fewer weights are stored as they are")
      .show_default();
  sub.add_flag("--source,!--no-source", command->options.keep_source,
               "Keep configuration, tokenizer and chat template, or a GGUF's metadata, as they are, so that decompress "
               "can write them back (default: on)");
  sub.add_option(
         "--card", command->card_text,
         "UTF-8 text on which the file is compared with the original; the result is stored in its quality card. If it "
         "is the text of --calib, calibration does not use the last part of it")
      .existing_file();
  sub.add_option("--card-tokens", command->card_tokens, "Tokens of that text to measure on at most; 0: all")
      .show_default();
}

}  // namespace nwc::cli
