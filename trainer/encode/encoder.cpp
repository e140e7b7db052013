#include "trainer/encode/encoder.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>

#include "trainer/data/chat_template.h"
#include "trainer/encode/distill_file.h"
#include "trainer/encode/encode_pass.h"
#include "trainer/plan/raw_warnings.h"

namespace nwc {
namespace {

constexpr double kAim = 0.005;       ///< bits per weight
constexpr double kTolerance = 0.02;  ///< bits per weight
constexpr double kGiveUp = 0.05;     ///< bits per weight
constexpr uint32_t kPasses = 3;      ///< after which the tolerance will do; with recovery it does at once
constexpr uint32_t kMaxPasses = 8;

std::string fixed(double v, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

/// Shares of the stages of an encoding: of all, of what is left after the first two, and with recovery still to come.
constexpr double kSurveyShare = 0.05, kFitShare = 0.2, kPassShare = 0.9, kPassBeforeDistillationShare = 0.35,
                 kPassOfCodedShare = 0.1,  // recovery has coded all blocks
    kFirstPassShare = 0.15, kRecoveryShare = 0.85, kDriftShare = 0.5;

/// What a pass came to, as far as the choice among passes goes.
struct Attempt {
  double step = 0;
  FittedCodec fitted;
  double error = INFINITY;       ///< bits per weight above what is wanted; infinite: there was none
  double distortion = INFINITY;  ///< QuantizeStatistics::weighted_error

  bool exists() const { return error < INFINITY; }
  /// A rate within the tolerance comes first, then the lesser distortion.
  bool better_than(const Attempt& other) const {
    const bool within = error <= kTolerance;
    if (within != (other.error <= kTolerance)) return within;
    return distortion < other.distortion;
  }
};

/// The size asked for lies below that of the smallest file. That size is rounded up: the target stands in the file's
/// provenance, whose length it changes.
Status too_small(const CompressOptions& options, uint64_t smallest_bytes, double smallest_bits) {
  const uint64_t bytes = (smallest_bytes + 127) / 64 * 64;
  const std::string asked = options.file_bytes != 0 ? std::to_string(options.file_bytes) + " bytes"
                                                    : fixed(options.bits, 3) + " bits per weight";
  return invalid_argument("the smallest file that this codec makes of this model has " + std::to_string(bytes) +
                          " bytes (" + fixed(smallest_bits, 3) + " bits per weight), " + asked + " asked for");
}

/// Says where the file is not as large as it was allowed to be, or a little larger.
void say_difference(const CompressOptions& options, const CompressReport& report, double error, const Logger& log) {
  if (std::abs(error) <= kTolerance) return;
  const std::string got =
      options.file_bytes != 0
          ? std::to_string(report.file_bytes) + " instead of " + std::to_string(options.file_bytes) + " bytes (" +
                fixed(report.bpw_coded, 3) + " bits per weight)"
          : fixed(report.bpw_coded, 3) + " instead of " + fixed(options.bits, 3) + " bits per weight";
  log.log(
      LogLevel::kWarning,
      error < 0
          ? "the file is smaller than asked for, because these weights gain nothing from more bits with this codec: " +
                got
          : "the rate of this model cannot be set finer: " + got);
}

/// Encodes, compares, corrects. The estimate's error hardly changes with the step, so each pass's error is what the
/// next one allows for.
Result<CompressReport> reach_rate(EncodeWork& work, RateModel* rate, const Logger& log) {
  const CompressOptions& options = work.options;
  const double weights = static_cast<double>(rate->coded_weights());
  const bool sized = options.file_bytes != 0;  // a size is a limit, not a mean: never above it
  const double target = sized ? static_cast<double>(options.file_bytes) : options.bits * weights / 8;
  const StepRange range = rate->step_range();
  StepSearch search(range);
  FittedCodec fitted;
  work.begin("fitting tables", kFitShare);
  double for_codec = target;
  if (sized) {
    NWC_ASSIGN_OR_RETURN(const uint64_t raw, raw_stored_bytes(work));
    for_codec = std::max(1.0, target - static_cast<double>(raw));
  }
  NWC_ASSIGN_OR_RETURN(double log_step, rate->find_step(for_codec, *work.runner, work.progress, &fitted));
  double fitted_step = log_step;
  Attempt best;
  uint64_t smallest_bytes = UINT64_MAX;
  double smallest_bits = 0;
  bool recovering = !options.recovery.enabled(), decided = false;
  bool holding = false;  // levels and tables stay what they are
  uint32_t last = kMaxPasses;
  for (uint32_t number = 1;; ++number) {
    if (log_step != fitted_step && !holding) {
      RateEstimate estimate;
      NWC_ASSIGN_OR_RETURN(fitted, rate->fit(log_step, *work.runner, &estimate));
      fitted_step = log_step;
    }
    RecoveredModel recovered;
    const std::string pass_name = number == 1 ? std::string() : ", pass " + std::to_string(number);
    work.one_codes = options.recovery.enabled() && recovering;
    if (work.one_codes && options.ranks->first()) {
      if (options.recovery.tune) {
        work.begin("fine-tuning" + pass_name, kRecoveryShare);
      } else {
        work.begin("correcting drift" + pass_name, options.distillation.enabled ? kDriftShare : kRecoveryShare);
      }
      NWC_ASSIGN_OR_RETURN(recovered, recover_model(work.source, options.calibration, rate, fitted, log_step,
                                                    options.recovery, *work.runner, work.progress, log));
    }
    work.weights = recovered.source != nullptr ? recovered.source.get() : &work.source;
    work.ready = std::move(recovered.parts);
    const double last_share = !options.distillation.enabled ? kPassShare
                              : work.one_codes              ? kPassOfCodedShare
                                                            : kPassBeforeDistillationShare;
    work.begin("coding" + pass_name +
                   (!work.one_codes         ? ""
                    : options.recovery.tune ? " (fine-tuned)"
                                            : " (corrected)"),
               recovering ? last_share : kFirstPassShare);
    NWC_ASSIGN_OR_RETURN(EncodePass pass, encode_pass(work, rate, &fitted, log_step));
    CompressReport& report = pass.report;
    const double error =
        sized ? 8 * (static_cast<double>(report.file_bytes) - target) / weights : report.bpw_coded - options.bits;
    log.log(LogLevel::kDebug, "pass " + std::to_string(number) + ": step 2^" + fixed(log_step, 4) + ", " +
                                  fixed(report.bpw_coded, 4) + " bits per weight");
    if (report.file_bytes < smallest_bytes) {
      smallest_bytes = report.file_bytes;
      smallest_bits = report.bpw_coded;
    }
    const Attempt attempt{log_step, fitted, error, pass.distortion};
    // Recovery takes longer than all passes: it is not done again for a two-hundredth of a bit.
    const bool tolerant = number >= kPasses || work.one_codes;
    const bool allowed = error <= (sized ? 0 : kGiveUp);
    if (allowed && attempt.better_than(best)) best = attempt;
    if (allowed && (std::abs(error) <= kAim || (tolerant && std::abs(error) <= kTolerance))) {
      best = attempt;
      decided = true;
    }
    std::optional<double> next;
    if (!decided && number < last) {
      const double above = error + (sized ? kAim / 2 : 0), slope = rate->slope(log_step);
      next = search.next(log_step, above, slope);
      // Small models' rate jumps where a step has other tables: those of this pass stay, and only the step goes on.
      if (!holding && tolerant && std::abs(error) > kTolerance && search.between_neighbours()) {
        holding = true;
        search = StepSearch(range);
        next = search.next(log_step, above, slope);
      }
    }
    if (!next && !best.exists() && log_step < range.coarsest) next = range.coarsest;  // what the smallest file takes
    if (!next && !best.exists()) return too_small(options, smallest_bytes, smallest_bits);
    if (next) {
      log_step = *next;
      continue;
    }
    log_step = fitted_step = best.step;
    fitted = best.fitted;
    if (!recovering) {  // once more with recovery, which hardly changes the rate
      recovering = true;
      decided = false;
      best = {};
      search = StepSearch(range);  // the rates of these weights are others
      // Hard to meet before, it may still be hard.
      last = number + (options.recovery.tune ? kPasses : kMaxPasses);
      --number;
      continue;
    }
    decided = true;
    if (best.step != attempt.step) continue;  // the best pass is repeated, to keep it
    say_difference(options, report, error, log);
    report.passes = number;
    if (!pass.writer) return std::move(report);
    if (options.distillation.enabled) {
      work.begin("fine-tuning norms", 1);
      NWC_ASSIGN_OR_RETURN(const DistillResult result, distill_file(work.source, work.plan, options.distillation,
                                                                    *work.runner, work.progress, log, &*pass.writer));
      report.kld_before_distillation = result.before;
      report.kld_after_distillation = result.after;
    }
    NWC_ASSIGN_OR_RETURN(const uint64_t size, pass.writer->commit());
    assert(size == report.file_bytes);
    (void)size;
    return std::move(report);
  }
}

/// Nothing is coded, so that the file has the one size.
Result<CompressReport> store_raw(EncodeWork& work, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(EncodePass pass, encode_pass(work, nullptr, nullptr, 0));
  if (work.options.file_bytes != 0 && pass.report.file_bytes > work.options.file_bytes)
    return too_small(work.options, pass.report.file_bytes, pass.report.bpw_file);
  log.log(LogLevel::kWarning,
          "no tensor of this model is large enough to be coded, or has anything but zeros; all are stored as they are");
  if (pass.writer) NWC_TRY(pass.writer->commit().status());
  pass.report.passes = 1;
  return std::move(pass.report);
}

/// Statistics that are no second moments, if only by rounding. The file is good, but less could be made of them.
std::vector<std::string> damping_warnings(const ModelSource& source, const RateModel& rate) {
  std::vector<std::string> out;
  for (const SurveyedTensor& t : rate.tensors()) {
    if (t.damping <= rate.choices().damping) continue;
    char text[64];
    std::snprintf(text, sizeof text, "%g in place of %g", t.damping, rate.choices().damping);
    out.push_back("tensor " + source.tensors()[t.source].name +
                  ": its statistics could only be factored with a damping of " + text);
  }
  return out;
}

/// What the file keeps of the source beside its weights, and its chat format; what it cannot keep is said.
Status make_source_sections(const ModelSource& source, EncodeWork* work, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(const SourceFiles files, source.source_files());
  std::string warning;
  const TokenizerRecord* tokenizer = source.tokenizer() ? &*source.tokenizer() : nullptr;
  if (const std::optional<ChatRecord> chat = derive_chat_record(files.record, tokenizer, &warning))
    work->chat_section = serialize(*chat);
  if (!warning.empty()) log.log(LogLevel::kWarning, warning);
  if (!work->options.keep_source) return {};
  for (const std::string& reason : files.left_out) log.log(LogLevel::kWarning, reason);
  if (!files.record.files.empty()) work->source_section = serialize(files.record);
  return {};
}

}  // namespace

Result<CompressReport> compress_model(const ModelSource& source, const CodecModel& codec,
                                      const CompressOptions& options, const std::string& path, const Progress& progress,
                                      const Logger& log) {
  const auto start = std::chrono::steady_clock::now();
  if (!(options.bits > 0 && options.bits <= 32))
    return invalid_argument("bits per weight must lie above 0 and below 32");
  NWC_TRY(validate(codec.record).with_context("codec " + codec.name));
  const uint32_t bits = options.choices.quantizer.trellis_bits;
  if (bits != 0 && find_trellis(bits) == nullptr)
    return invalid_argument("there is no trellis of " + std::to_string(bits) + " bits of state");
  EncodeWork work{.source = source,
                  .weights = &source,
                  .ready = {},
                  .one_codes = false,
                  .options = options,
                  .path = path,
                  .progress = progress,
                  .plan = plan_model(source, options.min_elements),
                  .source_section = {},
                  .chat_section = {},
                  .runner = make_thread_pool(options.threads)};
  NWC_TRY(make_source_sections(source, &work, log));
  work.begin("reading the model", kSurveyShare);
  NWC_ASSIGN_OR_RETURN(RateModel rate,
                       RateModel::survey(source, codec, {options.calibration, options.powers}, options.choices,
                                         &work.plan, progress, {*work.runner, *options.ranks, options.scratch}));
  for (const std::string& warning : raw_warnings(source, work.plan)) log.log(LogLevel::kWarning, warning);
  for (const std::string& warning : damping_warnings(source, rate)) log.log(LogLevel::kWarning, warning);
  if (!rate.scratch_trouble().empty()) {
    log.log(LogLevel::kWarning,
            rate.scratch_trouble() + "; factors of Hessians are made again wherever they are needed, which takes long");
  }
  Result<CompressReport> done = rate.coded_weights() > 0 ? reach_rate(work, &rate, log) : store_raw(work, log);
  if (!done.ok()) return done;
  CompressReport report = std::move(*done);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace nwc
