// nwc compress: a model into one .nwc file at a given number of bits per weight.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "host-tools/codec_path.h"
#include "host-tools/compress_command.h"
#include "host-tools/compress_files.h"
#include "host-tools/model_input.h"
#include "host-tools/output_name.h"
#include "host-tools/quality.h"
#include "host-tools/user_cache.h"
#include "runtime/base/os.h"
#include "trainer/calib/calibration_cache.h"
#include "trainer/calib/calibration_estimate.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/output_path.h"
#include "trainer/parallel/message.h"

namespace nwc::cli {
namespace {

namespace fs = std::filesystem;

/// A calibration that would fill the disk: nothing is calibrated unless it was asked for, which is an error.
Status check_room(const CompressCommand& command, const ModelSource& source, const CalibrationCache& cache,
                  CalibrationPlan* plan, const Context& context) {
  if (!*plan) return {};
  const Result<uint64_t> bytes = calibration_disk_bytes(source, command.calibration.activations);
  const uint64_t room = cache.room();
  if (!bytes.ok() || *bytes <= room) return {};  // calibrating says what is wrong
  const std::string why = fmt::format("calibration would take {} in {}, where {} are free", format_bytes(*bytes),
                                      calibration_root(command), format_bytes(room));
  if (!command.calib.empty())
    return limit_error(why + "; --calib-cache names another folder, --calib none does without");
  context.logger().log(LogLevel::kWarning,
                       fmt::format("{}: not calibrated: {}; --calib-cache names another folder", command.model, why));
  *plan = CalibrationPlan();
  return {};
}

Result<std::unique_ptr<Calibration>> calibrate(const CompressCommand& command, const ModelSource& source,
                                               const CalibrationPlan& plan, CalibrationCache* cache, Context& context) {
  const std::unique_ptr<Runner> runner = make_thread_pool(context.threads);
  ProgressLine line(context, "calibrating", 0.5);
  const Progress progress = line.callback();
  Result<std::unique_ptr<Calibration>> done = Calibration::run(
      source, plan.input(command.calibration, written_tokens(command), context), command.calibration,
      [&](const std::string& hash) { return cache->enter(hash, progress); }, *runner, progress, context.logger(),
      *context.ranks);
  if (done.ok()) cache->share();
  return done;
}

/// The request, but for the file.
QualityRequest quality_request(const CompressCommand& command, const CalibrationPlan& plan) {
  QualityRequest request;
  request.reference = command.model;
  request.text = measured_text(command, plan);
  request.text_begin = command.measured_from;
  request.max_tokens = command.card_tokens;
  return request;
}

/// Before anything is read: the output can be written, is none of the files that are read, and is named like what it
/// will be.
Status check_output(const CompressCommand& command) {
  if (!command.estimate) {
    std::vector<std::string> inputs = {command.model, command.card_text, command.imatrix};
    for (const std::string& word : command.calib) inputs.push_back(word == "self" || word == "none" ? "" : word);
    if (command.codec != "identity") {
      NWC_ASSIGN_OR_RETURN(inputs.emplace_back(), find_codec(command.codec));
    }
    const Output output{command.output};
    NWC_TRY(check_before_work({&output, 1}, inputs));
  }
  return check_output_name(command.output, {".nwc"}, "name it .nwc; nwc decompress makes other formats of that file");
}

/// Before anything is encoded: what is to be measured afterwards can be measured.
Status check_measurement(const CompressCommand& command, const CalibrationPlan& plan, const ModelSource& source,
                         const std::string& content) {
  const char* option = command.kld ? "--kld" : "--card";
  if (!source.model() || !source.tokenizer()) {
    const std::string why =
        join_notes(source.notes(), source.model() ? NoteKind::kTokenizerLeftOut : NoteKind::kModelLeftOut);
    return unsupported(command.model + ": " + option + " evaluates the model, which has no " +
                       (source.model() ? "tokenizer" : "model description") + " here" +
                       (why.empty() ? "" : ": " + why));
  }
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::create(*source.tokenizer()));
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, tokenizer->encode(content, {.add_special = false}));
  if (tokens.size() >= 2) return {};
  return invalid_argument(measured_text(command, plan) + ": the text of " + option + " is too short, it has " +
                          std::to_string(tokens.size()) + " tokens where 2 are needed");
}

Status compress(CompressCommand& command, Context& context) {
  const bool first = context.ranks->first();
  if (first) NWC_TRY(check_output(command));
  command.calibration.activations |= command.allocation != "fisher";  // which knows of nothing else
  NWC_ASSIGN_OR_RETURN(const CodecModel codec, open_codec(command.codec));
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> opened, open_model_source(command.model));
  const std::shared_ptr<const ModelSource> source = std::move(opened);
  warn_of_notes(command.model, source->notes(), context);
  if (!command.imatrix.empty()) NWC_TRY(read_imatrix(*source, context, &command));
  NWC_ASSIGN_OR_RETURN(CalibrationPlan plan, CalibrationPlan::resolve(command.calib, command.model, source, context));
  NWC_ASSIGN_OR_RETURN(const uint64_t cache_bytes, parse_bytes(command.cache_size));
  CalibrationCache cache(calibration_root(command), cache_bytes);
  if (first) NWC_TRY(check_room(command, *source, cache, &plan, context));
  bool calibrates = bool{plan};
  NWC_TRY(share(*context.ranks, &calibrates));
  if (!calibrates) plan = CalibrationPlan();
  command.calibration_kind = plan.kind();
  const bool measures = command.kld || !command.card_text.empty();
  const bool measures_own = measures && measured_text(command, plan).empty();
  if (measures && !measures_own) {
    NWC_ASSIGN_OR_RETURN(const std::string measured, read_text(measured_text(command, plan)));
    keep_apart(&command, &plan, measured);
    NWC_TRY(check_measurement(command, plan, *source, measured.substr(command.measured_from)));
  }
  if (measures_own && plan.kind() != CalibrationPlan::Kind::kSelf)
    return invalid_argument("--kld needs a text to measure on: --card TEXT or --calib TEXT");
  if (plan.kind() == CalibrationPlan::Kind::kImages && (command.recovery == "on" || command.drift == "on"))
    return unsupported(
        "--recovery on, --drift on: fine-tuning and correction of drift do not work with encoders of "
        "images yet");
  for (const auto& [name, value] : {std::pair{"--recovery", &command.recovery},
                                    {"--drift", &command.drift},
                                    {"--distillation", &command.distillation}}) {
    if (!plan && *value == "on")
      return invalid_argument(fmt::format("{} on needs calibration; --calib says with what", name));
  }
  if (command.recovery == "on" && command.drift == "on")
    return invalid_argument("--recovery on, --drift on: choose one; together they are worse than each alone");
  if (command.distillation == "on" && source->model() && source->model()->is_encoder())
    return unsupported("--distillation on: an encoder makes no predictions");

  CompressOptions& options = command.options;
  options.threads = context.threads;
  fs::path path = fs_path(command.model);
  if (!path.has_filename()) path = path.parent_path();
  options.source_name = path.filename().string();
  apply_effort(&command, *source);
  if (!command.size.empty()) {
    NWC_ASSIGN_OR_RETURN(options.file_bytes, parse_bytes(command.size));
    if (options.file_bytes == 0) return invalid_argument("--size " + command.size + ": must be above 0");
  }
  options.settings = canonical_settings(options, command);
  options.powers = command.powers.get();
  if (command.estimate) {
    if (!first) return {};
    std::unique_ptr<Calibration> finished;  // nothing is made, but one that is there is used
    if (plan) {
      const CalibrationInput input = plan.input(command.calibration, written_tokens(command), context);
      NWC_ASSIGN_OR_RETURN(const std::string hash, Calibration::hash_of(*source, input, command.calibration));
      Result<std::unique_ptr<Calibration>> found = Calibration::open(cache.folder_of(hash));
      if (found.ok()) finished = std::move(*found);
    }
    return print_estimate(command, *source, codec, plan, finished.get(), context);
  }
  std::unique_ptr<Calibration> calibration;
  std::optional<RecoveryFiles> recovery_files;
  if (plan) {
    NWC_ASSIGN_OR_RETURN(calibration, calibrate(command, *source, plan, &cache, context));
    options.calibration = calibration.get();
    options.scratch = cache.folder();
    options.recovery.tune = command.recovery == "on";
    options.recovery.drift.enabled = command.drift == "on";
    options.distillation.enabled = command.distillation == "on";
    recovery_files.emplace(cache.folder() + "/recovery");
    options.recovery.files = options.distillation.files = &*recovery_files;
    if (first) {  // which tunes for all
      options.recovery.context = options.distillation.context =
          source->model() ? calibration_context(*source->model(), command.calibration.context) : 0;
      const auto read = [&](uint64_t limit) {
        return plan.tokens(command.calibration, limit, written_tokens(command), cache.folder(), context);
      };
      if (options.recovery.enabled()) {
        NWC_ASSIGN_OR_RETURN(options.recovery.tokens,
                             read(options.recovery.tune ? *command.recovery_tokens : command.drift_tokens));
      }
      if (options.distillation.enabled) {
        NWC_ASSIGN_OR_RETURN(options.distillation.tokens, read(command.distill_tokens));
      }
    }
  }
  if (!first) return help_compress(command, *source, codec, context);
  QualityRequest request = quality_request(command, plan);
  if (measures_own) {
    request.context = calibration_context(*source->model(), command.calibration.context);
    NWC_ASSIGN_OR_RETURN(request.tokens,
                         plan.held_out(command.calibration, command.card_tokens, cache.folder(), context));
  }
  MeasuredFile file;
  if (command.kld) {
    NWC_ASSIGN_OR_RETURN(file, reach_kld(command, *source, codec, std::move(request), context));
  } else {
    const bool card = !command.card_text.empty();
    NWC_ASSIGN_OR_RETURN(file.report,
                         compress_once(options, *source, codec, command.output, "", card ? 0.8 : 1, context));
    if (card) {
      request.model = command.output;
      NWC_ASSIGN_OR_RETURN(file.quality, measure_quality(request, context));
      NWC_TRY(write_quality_card(command.output, file.quality));
    }
  }
  nlohmann::json json = report_json(file.report, command, source->stored_bytes());
  json["codec_name"] = codec.name;
  if (command.powers != nullptr) json["imatrix"] = imatrix_json(command);
  if (measures) {
    json["quality"] = quality_json(file.quality);
    std::error_code ignored;
    json["file_bytes"] = fs::file_size(fs_path(command.output), ignored);
  }
  // Not sooner: a search for a KL divergence, and the card, come back to the same blocks. Not never: they are as large
  // as the model in f32, and of use to these very settings only, whose file is there now.
  if (recovery_files) recovery_files->remove(context.logger());
  if (calibration != nullptr) {
    cache.trim(context.logger());
    json["calibration"] = {
        {"folder", cache.folder()},
        {"bytes", cache.folder_bytes()},
        {"hash", calibration->hash()},
        {"tokens", calibration->tokens()},
        {"text", plan.kind() == CalibrationPlan::Kind::kSelf ? nlohmann::json("self") : nlohmann::json(plan.files())}};
    if (plan.kind() == CalibrationPlan::Kind::kImages) {
      json["calibration"].erase("text");
      json["calibration"]["images"] = calibration->tokens() / source->model()->max_positions;
    }
  }
  warn_if_larger(*source, json["file_bytes"].get<uint64_t>(), context);
  if (context.json) {
    context.print_json(json);
  } else {
    print_report(file.report, command, *source, json);
  }
  return {};
}

}  // namespace

std::string measured_text(const CompressCommand& command, const CalibrationPlan& plan) {
  if (!command.card_text.empty()) return command.card_text;
  return plan.kind() == CalibrationPlan::Kind::kTexts ? plan.files()[0] : "";
}

void keep_apart(CompressCommand* command, CalibrationPlan* plan, const std::string& measured) {
  if (measured.empty() || plan->kind() != CalibrationPlan::Kind::kTexts) return;
  for (size_t i = 0; i < plan->files().size(); ++i) {
    if (plan->text(i) != measured) continue;
    command->measured_from = held_out_begin(measured, command->card_tokens);
    plan->cut(i, command->measured_from);
  }
}

uint64_t written_tokens(const CompressCommand& command) {
  const uint64_t recovery = command.recovery == "on" ? *command.recovery_tokens : 0;
  return std::max(command.calibration.tokens, recovery);
}

std::string calibration_root(const CompressCommand& command) {
  if (!command.calibration_cache.empty()) return command.calibration_cache;
  const std::string cache = user_cache_folder();
  return cache.empty() ? command.output + ".calibration" : cache + "/calibration";
}

void add_compress(CommandLine& line, Context& context) {
  auto command = std::make_shared<CompressCommand>();
  Command sub = line.add_command("compress", "Compress a model into one .nwc file");
  add_compress_options(sub, command.get());
  add_common_options(sub, context);
  sub.on_run([command, sub, &context] {
    run_command(context, "compress", [&]() -> Status {
      const std::vector<std::string> none = {"none"};
      if (!command->imatrix.empty()) {
        if (!command->calib.empty() && command->calib != none)
          return invalid_argument("--imatrix stands in for calibration: leave out either it or --calib " +
                                  command->calib.front());
        command->calib = none;
      }
      // Without the other option these would be without effect.
      if (command->calib == none) {
        for (const char* option : {"--calib-tokens", "--calib-context", "--calib-cache", "--calib-cache-size",
                                   "--damping", "--allocation-damping", "--recovery-tokens", "--recovery-epochs"}) {
          if (sub.given(option))
            return invalid_argument(fmt::format("{} is without effect with {}", option,
                                                command->imatrix.empty() ? "--calib none" : "--imatrix"));
        }
      }
      if (sub.given("--card-tokens") && command->card_text.empty() && !command->kld)
        return invalid_argument("--card-tokens is without effect here, nothing is measured; add --card TEXT or --kld");
      return compress(*command, context);
    });
  });
}

}  // namespace nwc::cli
