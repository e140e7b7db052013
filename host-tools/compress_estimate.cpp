// nwc compress --estimate: what a file would take, from a sample of the model and a block's speed on this machine.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "host-tools/compress_command.h"
#include "host-tools/cost_text.h"
#include "trainer/calib/calibration_estimate.h"
#include "trainer/llm/model_graph.h"
#include "trainer/recover/distill_memory.h"
#include "trainer/recover/drift.h"

namespace nwc::cli {
namespace {

constexpr double kTypicalFiles = 4;   ///< that --kld makes
constexpr double kWritingPasses = 2;  ///< forward passes in whose time a token is written: few tokens share one
constexpr uint64_t kHeldBytes = uint64_t{5} << 28;  ///< of coding while the file is distilled: 1.0 to 1.4 GiB measured
constexpr double kCodingAgain = 0.7;                ///< of the time of coding: the last pass follows recovery
constexpr double kRecoveryStages = 4;               ///< of a block; the layers after each are tuned

struct Estimate {
  CompressEstimate file;  ///< seconds: of one file, without what follows
  double writing = 0, calibrating = 0, recovering = 0, distilling = 0, measuring = 0, files = 1;
  uint64_t cache_bytes = 0;
  bool calibrated = false;  ///< there will be a calibration
  bool finished = false;    ///< and its calibration is there

  double seconds() const {
    return writing + calibrating + files * (file.seconds + recovering + distilling + measuring);
  }
};

/// Calibration, fine-tuning, comparing: everything that passes a text through the model.
Status add_passes(const CompressCommand& command, const ModelSource& source, const CalibrationPlan& plan,
                  const Context& context_of_command, Estimate* e) {
  const bool measures = command.kld || !command.card_text.empty();
  if (!plan && !measures) return {};
  const std::unique_ptr<Runner> runner = make_thread_pool(command.options.threads);
  const uint32_t context = calibration_context(*source.model(), command.calibration.context);
  NWC_ASSIGN_OR_RETURN(const BlockSpeed speed,
                       measure_block_speed(source, context, command.calibration.activations, *runner));
  const double layers = source.model()->num_layers;
  const uint64_t coding_memory = e->file.memory_bytes;
  if (plan) {
    uint64_t available = written_tokens(command);
    if (plan.kind() == CalibrationPlan::Kind::kSelf) {
      const uint64_t written = available + (measures && command.card_text.empty() ? command.card_tokens : 0);
      if (!e->finished) {
        e->writing = kWritingPasses * static_cast<double>(written) * (layers * speed.forward + speed.head_forward);
        NWC_ASSIGN_OR_RETURN(const uint64_t memory,
                             plan.writing_memory_bytes(command.calibration, available, context_of_command));
        e->file.memory_bytes = std::max(e->file.memory_bytes, memory);
      }
    } else {
      NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens,
                           plan.tokens(command.calibration, available, available, "", context_of_command));
      available = tokens.size();
    }
    const uint64_t used = std::min(available, command.calibration.tokens);
    NWC_ASSIGN_OR_RETURN(const CalibrationEstimate c, estimate_calibration(source, used, command.calibration, speed));
    if (!e->finished) e->calibrating = c.seconds;
    e->cache_bytes = c.disk_bytes;
    e->file.memory_bytes = std::max(e->file.memory_bytes, c.memory_bytes);
    if (command.recovery == "on") {
      const auto tuned = static_cast<double>(std::min(available, *command.recovery_tokens));
      e->recovering = tuned * layers *
                      (2 * speed.forward +
                       kRecoveryStages * command.options.recovery.options.epochs * (speed.forward + speed.backward));
    }
    if (command.recovery == "on" || command.drift == "on") e->recovering += kCodingAgain * e->file.seconds;
    if (command.drift == "on") {
      NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, context));
      const uint64_t tokens = std::min(available, command.drift_tokens);
      e->recovering += static_cast<double>(tokens) * layers * DriftCorrection::passes(graph.layer(0)) * speed.forward;
      e->file.memory_bytes = std::max(e->file.memory_bytes,
                                      coding_memory + e->file.file_bytes +
                                          DriftCorrection::memory_bytes(graph.layer(0), tokens, runner->num_workers()));
    }
    if (command.distillation == "on") {
      // The original's states; three passes of what is trained on, and three products with the head; what judges.
      const DistillChoices& d = command.options.distillation;
      const double tokens = static_cast<double>(std::min(available, command.distill_tokens)), epochs = d.epochs;
      const double forward = layers * speed.forward, head = speed.head_forward;
      e->distilling =
          tokens * (forward + epochs * (1 - d.validation) * (2 * forward + layers * speed.backward + 3 * head) +
                    (epochs + 1) * d.validation * (forward + 2 * head));
      DistillChoices choices = d;
      choices.context = context;
      NWC_ASSIGN_OR_RETURN(
          const uint64_t memory,
          distill_memory_bytes(source, choices, std::min(available, command.distill_tokens), runner->num_workers()));
      e->file.memory_bytes = std::max(e->file.memory_bytes, std::min(coding_memory, kHeldBytes) + memory);
    }
  }
  if (measures) {  // the file and the original
    const double tokens = command.card_tokens != 0 ? static_cast<double>(command.card_tokens) : 1e5;
    e->measuring = 2 * tokens * (layers * speed.forward + speed.head_forward);
  }
  return {};
}

/// The rate at which the predicted divergence is the one asked for: each bit less multiplies it by about 4.
Result<CompressEstimate> estimate_at_kld(const CompressCommand& command, const ModelSource& source,
                                         const CodecModel& codec, CompressOptions options, const Progress& progress) {
  NWC_ASSIGN_OR_RETURN(CompressEstimate estimate, estimate_compress(source, codec, options, progress));
  const double seconds = estimate.seconds;
  for (int step = 0; step < 2 && estimate.predicted_kld > 0; ++step) {
    options.bits =
        std::clamp(estimate.bits + std::log(estimate.predicted_kld / *command.kld) / std::log(4.0), 0.5, 16.0);
    NWC_ASSIGN_OR_RETURN(estimate, estimate_compress(source, codec, options, progress));
  }
  estimate.seconds = seconds;
  return estimate;
}

std::vector<std::string> assumptions(const CompressCommand& command, const Estimate& e) {
  std::vector<std::string> out = {"nothing else keeps this machine busy"};
  if (e.calibrated && !e.finished)
    out.push_back(
        "errors of all weights cost the same, which calibration will correct: the size stays, the quality is not "
        "predicted");
  if (e.finished) out.push_back("the calibration of this model and text, which is there, is used");
  if (command.kld) {
    out.push_back(
        fmt::format("{:.0f} files are made and compared with the original until --kld is met", kTypicalFiles));
    if (e.file.predicted_kld <= 0)
      out.push_back(fmt::format("{:g} bits per weight: which rate --kld needs is not known before calibration",
                                command.options.bits));
  }
  return out;
}

}  // namespace

Status print_estimate(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                      const CalibrationPlan& plan, const Calibration* calibration, Context& context) {
  Estimate e;
  e.calibrated = static_cast<bool>(plan);
  e.finished = calibration != nullptr;
  e.files = command.kld ? kTypicalFiles : 1;
  const bool reads = plan.kind() == CalibrationPlan::Kind::kTexts || command.kld || !command.card_text.empty();
  if (reads && !(source.model() && source.tokenizer()))
    return unsupported(command.model + ": --calib, --kld and --card need a model description and a tokenizer");
  std::unique_ptr<Calibration> assumed;
  CompressOptions options = command.options;
  if (e.calibrated && !e.finished) {
    NWC_ASSIGN_OR_RETURN(assumed, assumed_calibration(source));
  }
  options.calibration = e.finished ? calibration : assumed.get();
  {
    ProgressLine line(context, "estimating");
    if (command.kld && e.finished) {
      NWC_ASSIGN_OR_RETURN(e.file, estimate_at_kld(command, source, codec, options, line.callback()));
    } else {
      NWC_ASSIGN_OR_RETURN(e.file, estimate_compress(source, codec, options, line.callback()));
    }
    if (!e.finished) e.file.predicted_kld = 0;
  }
  NWC_TRY(add_passes(command, source, plan, context, &e));
  warn_if_larger(source, e.file.file_bytes, context);
  const std::vector<std::string> assumed_things = assumptions(command, e);
  if (context.json) {
    nlohmann::json json = {{"file_bytes", e.file.file_bytes},
                           {"bpw_coded", e.file.bits},
                           {"predicted_kld", e.file.predicted_kld},
                           {"seconds", e.seconds()},
                           {"seconds_writing", e.writing},
                           {"seconds_calibrating", e.calibrating},
                           {"seconds_coding", e.files * e.file.seconds},
                           {"seconds_fine_tuning", e.files * (e.recovering + e.distilling)},
                           {"seconds_measuring", e.files * e.measuring},
                           {"memory_bytes", e.file.memory_bytes},
                           {"cache_bytes", e.cache_bytes},
                           {"scratch_bytes", e.file.scratch_bytes},
                           {"assumes", assumed_things}};
    if (command.powers != nullptr) json["imatrix"] = imatrix_json(command);
    context.print_json(json);
    return {};
  }
  fmt::print("{}: about {} ({:.2f} bits per coded weight), {}, {} of memory\n", command.model,
             format_bytes(e.file.file_bytes), e.file.bits, format_seconds(e.seconds()),
             format_bytes(e.file.memory_bytes));
  fmt::print("  time: {} for coding", format_seconds(e.files * e.file.seconds));
  if (e.writing > 0) fmt::print(", {} for the text that the model writes", format_seconds(e.writing));
  if (e.calibrating > 0) fmt::print(", {} for calibration", format_seconds(e.calibrating));
  if (e.recovering + e.distilling > 0)
    fmt::print(", {} for fine-tuning", format_seconds(e.files * (e.recovering + e.distilling)));
  if (e.measuring > 0) fmt::print(", {} for measuring", format_seconds(e.files * e.measuring));
  fmt::print("\n");
  if (e.cache_bytes != 0)
    fmt::print("  calibration {} {} in {}{}\n", e.finished ? "takes" : "will take", format_bytes(e.cache_bytes),
               calibration_root(command),
               e.file.scratch_bytes == 0
                   ? ""
                   : fmt::format(", and coding {} more there while it runs", format_bytes(e.file.scratch_bytes)));
  if (e.file.predicted_kld > 0) fmt::print("  predicted KL divergence {:.5f} nats per token\n", e.file.predicted_kld);
  if (command.powers != nullptr) fmt::print("  {}\n", imatrix_line(command));
  for (const std::string& thing : assumed_things) fmt::print("  assumed: {}\n", thing);
  return {};
}

}  // namespace nwc::cli
