#include "trainer/encode/encoder.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>

#include "trainer/codec/container_write.h"
#include "trainer/data/chat_template.h"
#include "trainer/encode/coded_parts.h"
#include "trainer/encode/distill_file.h"
#include "trainer/parallel/message.h"
#include "trainer/plan/raw_warnings.h"

namespace nwc {
namespace {

constexpr double kAim = 0.005;       ///< bits per weight
constexpr double kTolerance = 0.02;  ///< bits per weight
constexpr double kGiveUp = 0.05;     ///< bits per weight
constexpr uint32_t kPasses = 3;      ///< after which the tolerance will do; with recovery it does at once
constexpr uint32_t kMaxPasses = 8;
constexpr const char* kEncoderName = "nwc " NWC_VERSION;

std::string fixed(double v, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

/// Everything that the passes share.
struct Work {
  const ModelSource& source;
  const ModelSource* weights;  ///< what is coded: the source, or what recovery made of it
  bool one_codes = false;      ///< rank 0 alone: it only has what recovery made
  const CompressOptions& options;
  const std::string& path;
  const Progress& progress;
  std::vector<PlannedTensor> plan;
  std::vector<uint8_t> source_section;  ///< empty: none
  std::vector<uint8_t> chat_section;    ///< empty: none
  std::unique_ptr<Runner> runner;

  void begin(const std::string& stage, double share) const {
    if (options.stage) options.stage(stage.c_str(), share);
  }
};

/// Shares of the stages of an encoding: of all, of what is left after the first two, and with recovery still to come.
constexpr double kSurveyShare = 0.05, kFitShare = 0.2, kPassShare = 0.9, kPassBeforeDistillationShare = 0.35,
                 kFirstPassShare = 0.15, kRecoveryShare = 0.85;

/// One attempt: a complete file that only waits to be committed.
struct Pass {
  std::optional<ModelWriter> writer;  ///< on rank 0
  CompressReport report;
  double distortion = 0;  ///< QuantizeStatistics::weighted_error of the whole model
};

std::vector<TensorRecord> announce_records(const Work& work) {
  std::vector<TensorRecord> records;
  for (const PlannedTensor& p : work.plan) {
    const SourceTensor& tensor = work.source.tensors()[p.source];
    TensorRecord& r = records.emplace_back();
    r.name = tensor.name;
    r.dtype = tensor.dtype;
    r.group = p.group;
    r.shape = tensor.shape;
    if (p.coded) r.split = p.split;
  }
  return records;
}

Status append_coded(const CodedPart& part, size_t index, TensorRecord record, Pass* pass) {
  const EncodedTensor& encoded = part.encoded;
  encoded.describe(part.quantized, &record);
  const Bytes parts[] = {encoded.side, encoded.directory, encoded.payload};
  NWC_TRY(pass->writer->append(std::move(record), parts));

  TensorReport& r = pass->report.tensors[index];
  const QuantizeStatistics& statistics = part.statistics;
  r.storage = Storage::kCoded;
  r.stored_bytes = encoded.size();
  r.side_bytes = encoded.side.size();
  r.directory_bytes = encoded.directory.size();
  r.state_bytes = encoded.state_bytes;
  r.word_bytes = encoded.payload.size() - encoded.state_bytes;
  r.tiles = encoded.num_tiles;
  r.ideal_bits = statistics.ideal_bits;
  r.relative_error = statistics.squared_weight > 0 ? statistics.squared_error / statistics.squared_weight : 0;
  return {};
}

/// The tensor's bytes as they are stored, and how.
Result<std::vector<uint8_t>> pack_raw(const ModelSource& source, size_t tensor, bool deflate, Storage* storage) {
  const SourceTensor& info = source.tensors()[tensor];
  std::vector<uint8_t> bytes(static_cast<size_t>(info.num_bytes()));
  NWC_TRY(source.read_raw(tensor, bytes).with_context("tensor " + info.name));
  if (!deflate) {
    *storage = Storage::kRaw;
    return bytes;
  }
  std::vector<uint8_t> deflated = deflate_bytes(bytes);
  *storage = Storage::kRaw;
  // A raw tensor can be used where it lies; give that up only for a gain worth having.
  if (deflated.size() < bytes.size() - bytes.size() / 16) {
    *storage = Storage::kRawDeflated;
    bytes = std::move(deflated);
  }
  return bytes;
}

/// Distillation replaces vectors where they lie.
bool may_deflate(const Work& work, const PlannedTensor& p) {
  return !work.options.distillation.enabled || !can_be_distilled(work.source, p);
}

/// What of a file's size is none of the codec's business, but for the metadata.
Result<uint64_t> raw_stored_bytes(const Work& work) {
  uint64_t sum = 0;
  for (const PlannedTensor& p : work.plan) {
    if (p.coded) continue;
    Storage ignored{};
    NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                         pack_raw(work.source, p.source, may_deflate(work, p), &ignored));
    sum += bytes.size();
  }
  return sum;
}

Status append_raw(const Work& work, size_t index, TensorRecord record, Pass* pass) {
  NWC_ASSIGN_OR_RETURN(
      const std::vector<uint8_t> bytes,
      pack_raw(*work.weights, work.plan[index].source, may_deflate(work, work.plan[index]), &record.storage));
  record.crc = crc32(bytes);
  pass->report.tensors[index].storage = record.storage;
  pass->report.tensors[index].stored_bytes = bytes.size();
  const Bytes parts[] = {bytes};
  return pass->writer->append(std::move(record), parts);
}

std::vector<Section> metadata_sections(const Work& work, const CodecModel* codec, bool refitted) {
  std::vector<Section> sections;
  if (codec != nullptr) {
    sections.push_back({.type = SectionType::kCodec, .bytes = serialize(codec->record), .deflate = true});
  }
  if (work.source.model()) {
    sections.push_back({.type = SectionType::kModel, .bytes = serialize(*work.source.model())});
  }
  if (work.source.tokenizer()) {
    sections.push_back(
        {.type = SectionType::kTokenizer, .bytes = serialize(*work.source.tokenizer()), .deflate = true});
  }
  if (!work.source_section.empty()) {
    sections.push_back({.type = SectionType::kSource, .bytes = work.source_section, .deflate = true, .optional = true});
  }
  if (!work.chat_section.empty()) {
    sections.push_back({.type = SectionType::kChat, .bytes = work.chat_section, .deflate = true, .optional = true});
  }
  static constexpr const char* kPresets[] = {"linear", "small", "paper", "other"};
  Metadata provenance = to_metadata(work.source.notes());
  provenance["encoder"] = kEncoderName;
  if (!work.options.source_name.empty()) provenance["source"] = work.options.source_name;
  if (!work.options.settings.empty()) provenance["settings"] = work.options.settings;
  const CompressOptions& options = work.options;
  provenance["calibration"] = options.calibration != nullptr ? options.calibration->hash()
                              : options.powers != nullptr    ? options.powers->imatrix().hash()
                                                             : "none";
  if (codec != nullptr) {
    char id[17];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(codec->record.codec_id));
    provenance["codec"] = codec->name;
    provenance["codec_id"] = id;
    provenance["preset"] = kPresets[static_cast<size_t>(codec->record.preset) % 4];
    provenance["tables"] = refitted ? "refitted" : "of the codec";
  }
  sections.push_back({.type = SectionType::kProvenance, .bytes = serialize(provenance)});
  return sections;
}

/// What the report says of the whole file, once its tensors are there.
void finish_report(const std::vector<TensorRecord>& records, const ModelWriter& writer, bool coded,
                   const QuantizeStatistics& total, CompressReport* out) {
  CompressReport& report = *out;
  report.codec_bytes = coded ? writer.stored_bytes(SectionType::kCodec) : 0;
  report.metadata_bytes = writer.data_offset() - report.codec_bytes;
  report.file_bytes = report.metadata_bytes + report.codec_bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    TensorReport& t = report.tensors[i];
    t.name = records[i].name;
    t.weights = records[i].num_elements();
    t.padding_bytes = writer.padding(i);
    report.file_bytes += t.stored_bytes + t.padding_bytes;
    report.total_weights += t.weights;
    if (t.storage != Storage::kCoded) continue;
    report.coded_weights += t.weights;
    report.coded_bytes += t.stored_bytes + t.padding_bytes;
  }
  if (report.coded_weights > 0) {
    report.bpw_coded =
        8.0 * static_cast<double>(report.coded_bytes + report.codec_bytes) / static_cast<double>(report.coded_weights);
    report.relative_error = total.squared_error / total.squared_weight;
  }
  if (report.total_weights > 0) {
    report.bpw_file = 8.0 * static_cast<double>(report.file_bytes) / static_cast<double>(report.total_weights);
  }
}

/// One complete file at a common step. `rate` and `fitted` are null if no tensor is coded.
Result<Pass> write_pass(const Work& work, PartCoder* coder, RateModel* rate, const FittedCodec* fitted) {
  const std::vector<TensorRecord> records = announce_records(work);
  const CodecModel* codec = fitted != nullptr ? &fitted->codec : nullptr;
  Pass pass;
  NWC_ASSIGN_OR_RETURN(
      pass.writer,
      ModelWriter::create(work.path, metadata_sections(work, codec, work.options.choices.refit_tables), records));
  CompressReport& report = pass.report;
  report.tensors.resize(records.size());
  if (codec != nullptr) {
    report.levels = codec->record.num_levels;
    report.tables = static_cast<uint32_t>(codec->record.tables.size());
  }
  QuantizeStatistics total;
  for (size_t i = 0; i < records.size(); ++i) {
    if (!work.progress.report(i, records.size())) return Status(StatusCode::kCancelled, "cancelled while encoding");
    if (!work.plan[i].coded) {
      NWC_TRY(append_raw(work, i, records[i], &pass));
      continue;
    }
    if (coder == nullptr) {
      return Status(StatusCode::kInternal, "tensor " + records[i].name + " is to be coded without a codec");
    }
    NWC_ASSIGN_OR_RETURN(const CodedPart part, coder->take(i));
    NWC_TRY(append_coded(part, i, records[i], &pass).with_context("tensor " + records[i].name));
    if (rate->choices().allocation == Allocation::kFisher)
      report.tensors[i].predicted_kld = part.statistics.weighted_error / 2;
    report.predicted_kld += report.tensors[i].predicted_kld;
    total.add(part.statistics);
  }
  pass.distortion = total.weighted_error;
  NWC_TRY(pass.writer->finish_data());
  finish_report(records, *pass.writer, codec != nullptr, total, &report);
  return pass;
}

/// Rank 0 writes what all ranks code. All get what decides about the next pass.
Result<Pass> encode_pass(const Work& work, RateModel* rate, const FittedCodec* fitted, double log_step) {
  Ranks& ranks = *work.options.ranks;
  std::optional<PartCoder> coder;
  if (fitted != nullptr)
    coder.emplace(*work.weights, work.plan, rate, *fitted, log_step, work.one_codes ? one_rank() : ranks, *work.runner);
  Pass pass;
  if (ranks.first()) {
    NWC_ASSIGN_OR_RETURN(pass, write_pass(work, coder ? &*coder : nullptr, rate, fitted));
  } else if (coder && !work.one_codes) {
    NWC_TRY(coder->send_all(work.progress));
  }
  CompressReport& report = pass.report;
  NWC_TRY(share(ranks, &report.file_bytes, &report.bpw_coded, &report.bpw_file, &pass.distortion));
  return pass;
}

/// What a pass came to, as far as the choice among passes goes.
struct Attempt {
  double step = 0;
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
Result<CompressReport> reach_rate(Work& work, RateModel* rate, const Logger& log) {
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
  bool recovering = !options.recovery.enabled, decided = false;
  uint32_t last = kMaxPasses;
  for (uint32_t number = 1;; ++number) {
    if (log_step != fitted_step) {
      RateEstimate estimate;
      NWC_ASSIGN_OR_RETURN(fitted, rate->fit(log_step, *work.runner, &estimate));
      fitted_step = log_step;
    }
    std::unique_ptr<ModelSource> recovered;
    const std::string pass_name = number == 1 ? std::string() : ", pass " + std::to_string(number);
    work.one_codes = options.recovery.enabled && recovering;
    if (work.one_codes && options.ranks->first()) {
      work.begin("fine-tuning" + pass_name, kRecoveryShare);
      NWC_ASSIGN_OR_RETURN(recovered, recover_model(work.source, options.calibration, rate, fitted, log_step,
                                                    options.recovery, *work.runner, work.progress, log));
    }
    work.weights = recovered != nullptr ? recovered.get() : &work.source;
    const double last_share = options.distillation.enabled ? kPassBeforeDistillationShare : kPassShare;
    work.begin("coding" + pass_name + (work.one_codes ? " (fine-tuned)" : ""),
               recovering ? last_share : kFirstPassShare);
    NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, rate, &fitted, log_step));
    CompressReport& report = pass.report;
    const double error =
        sized ? 8 * (static_cast<double>(report.file_bytes) - target) / weights : report.bpw_coded - options.bits;
    log.log(LogLevel::kDebug, "pass " + std::to_string(number) + ": step 2^" + fixed(log_step, 4) + ", " +
                                  fixed(report.bpw_coded, 4) + " bits per weight");
    if (report.file_bytes < smallest_bytes) {
      smallest_bytes = report.file_bytes;
      smallest_bits = report.bpw_coded;
    }
    const Attempt attempt{log_step, error, pass.distortion};
    // Recovery takes longer than all passes: it is not done again for a two-hundredth of a bit.
    const bool tolerant = number >= kPasses || work.one_codes;
    const bool allowed = error <= (sized ? 0 : kGiveUp);
    if (allowed && attempt.better_than(best)) best = attempt;
    if (allowed && (std::abs(error) <= kAim || (tolerant && std::abs(error) <= kTolerance))) {
      best = attempt;
      decided = true;
    }
    std::optional<double> next;
    if (!decided && number < last) next = search.next(log_step, error + (sized ? kAim / 2 : 0), rate->slope(log_step));
    if (!next && !best.exists() && log_step < range.coarsest) next = range.coarsest;  // what the smallest file takes
    if (!next && !best.exists()) return too_small(options, smallest_bytes, smallest_bits);
    if (next) {
      log_step = *next;
      continue;
    }
    log_step = best.step;
    if (!recovering) {  // once more with recovery, which hardly changes the rate
      recovering = true;
      decided = false;
      best = {};
      last = number + kPasses;  // hard to meet before, it may still be hard
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
Result<CompressReport> store_raw(Work& work, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, nullptr, nullptr, 0));
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
Status make_source_sections(const ModelSource& source, Work* work, const Logger& log) {
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
  Work work{.source = source,
            .weights = &source,
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
