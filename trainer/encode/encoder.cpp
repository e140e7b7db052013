#include "trainer/encode/encoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "runtime/base/half.h"
#include "trainer/codec/container_write.h"

namespace nwc {
namespace {

constexpr double kAim = 0.005;       ///< bits per weight
constexpr double kTolerance = 0.02;  ///< bits per weight
constexpr double kGiveUp = 0.05;     ///< bits per weight
constexpr uint32_t kPasses = 3;      ///< after which the tolerance will do
constexpr uint32_t kMaxPasses = 8;
constexpr const char* kEncoderName = "nwc 0.1.0";

std::string fixed(double v, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

/// read_f32 refuses what is not finite; tensors that stay raw get the same treatment here.
Status check_finite(const SourceTensor& tensor, Bytes bytes) {
  const uint32_t size = dtype_size(tensor.dtype);
  for (uint64_t i = 0; i < bytes.size() / size; ++i) {
    const uint8_t* p = bytes.data() + i * size;
    double v = 0;
    switch (tensor.dtype) {
      case Dtype::kF64: v = load_le<double>(p); break;
      case Dtype::kF32: v = load_le<float>(p); break;
      case Dtype::kF16: v = f16_to_f32(load_le<uint16_t>(p)); break;
      case Dtype::kBf16: v = bf16_to_f32(load_le<uint16_t>(p)); break;
      default: return {};
    }
    if (!std::isfinite(v)) {
      return corrupt("tensor " + tensor.name + ": element " + std::to_string(i) + " is not finite");
    }
  }
  return {};
}

/// Everything that the passes share.
struct Work {
  const ModelSource& source;
  const ModelSource* weights;  ///< what is coded: the source, or what recovery made of it
  const CompressOptions& options;
  const std::string& path;
  const Progress& progress;
  std::vector<PlannedTensor> plan;
  std::unique_ptr<Runner> runner;
};

/// One attempt: a complete file that only waits to be committed.
struct Pass {
  ModelWriter writer;
  CompressReport report;
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
  }
  return records;
}

/// Some coded tensors, quantized side by side.
struct QuantizedBatch {
  std::vector<QuantizedTensor> tensors;
  std::vector<QuantizeStatistics> statistics;
};

/// Feedback ties the columns of a band of rows together, so one tensor keeps only as many threads busy as it has bands.
/// Returns how many tensors from plan[first] on are to be quantized together.
size_t batch_size(const Work& work, const RateModel& rate, size_t first) {
  const uint32_t workers = work.runner->num_workers();
  size_t count = 0;
  while (first + count < work.plan.size() && work.plan[first + count].coded && count < workers) {
    const SurveyedTensor& t = *rate.find(work.plan[first + count].source);
    const bool alone = !rate.choices().feedback || ceil_div(t.m, uint64_t{t.tile_rows}) >= 2 * workers;
    if (alone) return std::max<size_t>(count, 1);
    ++count;
  }
  return count;
}

Result<QuantizedBatch> quantize_batch(const Work& work, RateModel* rate, const FittedCodec& fitted,
                                      const TableCosts& costs, double log_step, size_t first, size_t count) {
  QuantizedBatch out;
  std::vector<std::vector<float>> w(count);
  std::vector<std::shared_ptr<const FeedbackFactors>> factors(count);
  for (size_t i = 0; i < count; ++i) {
    NWC_ASSIGN_OR_RETURN(w[i], work.weights->read_f32(work.plan[first + i].source));
    if (!rate->choices().feedback) continue;
    NWC_ASSIGN_OR_RETURN(factors[i], rate->factors(*rate->find(work.plan[first + i].source)));
  }
  out.tensors.resize(count);
  out.statistics.resize(count);
  const auto quantize = [&](size_t i, Runner& runner) {
    const SurveyedTensor& t = *rate->find(work.plan[first + i].source);
    const TensorSteps steps = rate->steps(t, log_step, fitted);
    out.tensors[i] = quantize_tensor({.codec = fitted.codec,
                                      .costs = costs,
                                      .rdo_strength = rate->choices().rdo_strength,
                                      .w = w[i],
                                      .m = t.m,
                                      .n = t.n,
                                      .steps = steps,
                                      .feedback = factors[i].get(),
                                      .row_importance = t.row_importance,
                                      .tile_rows = t.tile_rows},
                                     runner, &out.statistics[i], nullptr);
  };
  if (count == 1) {
    quantize(0, *work.runner);
  } else {
    parallel_for(*work.runner, static_cast<uint32_t>(count), [&](uint32_t i, uint32_t) {
      const std::unique_ptr<Runner> serial = make_thread_pool(1);
      quantize(i, *serial);
    });
  }
  return out;
}

Status append_coded(const Work& work, const EncodeTables& tables, const QuantizedTensor& quantized,
                    const QuantizeStatistics& statistics, size_t index, TensorRecord record, Pass* pass) {
  NWC_ASSIGN_OR_RETURN(const EncodedTensor encoded, encode_tensor(tables, quantized, *work.runner));
  encoded.describe(quantized, &record);
  const Bytes parts[] = {encoded.side, encoded.directory, encoded.payload};
  NWC_TRY(pass->writer.append(std::move(record), parts));

  TensorReport& r = pass->report.tensors[index];
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

Status append_raw(const Work& work, size_t index, TensorRecord record, Pass* pass) {
  const SourceTensor& tensor = work.source.tensors()[work.plan[index].source];
  std::vector<uint8_t> bytes(static_cast<size_t>(record.raw_bytes()));
  NWC_TRY(work.weights->read_raw(work.plan[index].source, bytes).with_context("tensor " + tensor.name));
  NWC_TRY(check_finite(tensor, bytes));
  std::vector<uint8_t> deflated = deflate_bytes(bytes);
  record.storage = Storage::kRaw;
  // A raw tensor can be used where it lies; give that up only for a gain worth having.
  if (deflated.size() < bytes.size() - bytes.size() / 16) {
    record.storage = Storage::kRawDeflated;
    bytes = std::move(deflated);
  }
  record.crc = crc32(bytes);
  pass->report.tensors[index].storage = record.storage;
  pass->report.tensors[index].stored_bytes = bytes.size();
  const Bytes parts[] = {bytes};
  return pass->writer.append(std::move(record), parts);
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
  static constexpr const char* kPresets[] = {"linear", "small", "paper", "other"};
  Metadata provenance;
  provenance["encoder"] = kEncoderName;
  if (!work.options.source_name.empty()) provenance["source"] = work.options.source_name;
  if (!work.options.settings.empty()) provenance["settings"] = work.options.settings;
  provenance["calibration"] = work.options.calibration != nullptr ? work.options.calibration->hash() : "none";
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

/// One complete file at a common step. `rate` and `fitted` are null if no tensor is coded.
Result<Pass> encode_pass(const Work& work, RateModel* rate, const FittedCodec* fitted, double log_step) {
  const std::vector<TensorRecord> records = announce_records(work);
  const CodecModel* codec = fitted != nullptr ? &fitted->codec : nullptr;
  NWC_ASSIGN_OR_RETURN(
      ModelWriter writer,
      ModelWriter::create(work.path, metadata_sections(work, codec, work.options.choices.refit_tables), records));
  Pass pass{std::move(writer), {}};
  CompressReport& report = pass.report;
  report.tensors.resize(records.size());

  const CodecRecord none;
  const CodecRecord& record = codec != nullptr ? codec->record : none;
  const EncodeTables tables(record);
  const TableCosts costs(record);
  report.levels = record.num_levels;
  report.tables = static_cast<uint32_t>(record.tables.size());
  QuantizeStatistics total;
  for (size_t i = 0; i < records.size();) {
    if (!work.progress.report(i, records.size())) return Status(StatusCode::kCancelled, "cancelled while encoding");
    if (!work.plan[i].coded) {
      NWC_TRY(append_raw(work, i, records[i], &pass));
      ++i;
      continue;
    }
    const size_t count = batch_size(work, *rate, i);
    NWC_ASSIGN_OR_RETURN(const QuantizedBatch batch, quantize_batch(work, rate, *fitted, costs, log_step, i, count));
    for (size_t j = 0; j < count; ++j, ++i) {
      NWC_TRY(append_coded(work, tables, batch.tensors[j], batch.statistics[j], i, records[i], &pass)
                  .with_context("tensor " + records[i].name));
      if (rate->choices().allocation == Allocation::kFisher)
        report.tensors[i].predicted_kld = batch.statistics[j].weighted_error / 2;
      report.predicted_kld += report.tensors[i].predicted_kld;
      total.add(batch.statistics[j]);
    }
  }
  NWC_TRY(pass.writer.finish_data());
  report.codec_bytes = codec != nullptr ? pass.writer.stored_bytes(SectionType::kCodec) : 0;
  report.metadata_bytes = pass.writer.data_offset() - report.codec_bytes;
  report.file_bytes = report.metadata_bytes + report.codec_bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    TensorReport& t = report.tensors[i];
    t.name = records[i].name;
    t.weights = records[i].num_elements();
    t.padding_bytes = pass.writer.padding(i);
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
  return pass;
}

/// Encodes, compares, corrects. The estimate's error hardly changes with the step, so each pass's error is what the
/// next one allows for.
Result<CompressReport> reach_rate(Work& work, RateModel* rate, const Logger& log) {
  const double weights = static_cast<double>(rate->coded_weights());
  double target = work.options.bits * weights / 8;
  FittedCodec fitted;
  if (work.options.file_bytes != 0) target = std::max(1.0, static_cast<double>(work.options.file_bytes));
  NWC_ASSIGN_OR_RETURN(double log_step, rate->find_step(target, *work.runner, &fitted));
  double best_step = log_step, best_error = INFINITY;
  bool near = false;
  double fitted_step = log_step;
  for (uint32_t number = 1;; ++number) {
    if (log_step != fitted_step) {
      RateEstimate estimate;
      NWC_ASSIGN_OR_RETURN(fitted, rate->fit(log_step, *work.runner, &estimate));
      fitted_step = log_step;
    }
    std::unique_ptr<ModelSource> recovered;
    if (work.options.recovery.enabled && near) {
      NWC_ASSIGN_OR_RETURN(recovered, recover_model(work.source, work.options.calibration, rate, fitted, log_step,
                                                    work.options.recovery, *work.runner, work.progress, log));
    }
    work.weights = recovered != nullptr ? recovered.get() : &work.source;
    NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, rate, &fitted, log_step));
    const CompressReport& report = pass.report;
    const double wanted = work.options.file_bytes == 0
                              ? work.options.bits
                              : report.bpw_coded + 8 * (target - static_cast<double>(report.file_bytes)) / weights;
    const double error = report.bpw_coded - wanted;
    log.log(LogLevel::kDebug, "pass " + std::to_string(number) + ": step 2^" + fixed(log_step, 4) + ", " +
                                  fixed(report.bpw_coded, 4) + " bits per weight");
    // A size is a limit, not a mean: never above it.
    const bool allowed = work.options.file_bytes == 0 || error <= 0;
    const bool last = number >= kMaxPasses;
    const bool met = allowed && (std::abs(error) <= kAim || (number >= kPasses && std::abs(error) <= kTolerance));
    if (work.options.recovery.enabled && !near && (met || number + 1 >= kMaxPasses)) {
      near = true;  // the rate is met, or as near as it gets: once more, with recovery, which hardly changes it
      if (met) {
        --number;
        continue;
      }
    }
    if (met || last) {
      if (std::abs(error) > kGiveUp || !allowed) {
        return invalid_argument("this codec comes no closer than " + fixed(report.bpw_coded, 3) +
                                " bits per weight on this model, " + fixed(wanted, 3) +
                                " asked for; choose another rate or codec");
      }
      if (std::abs(error) > kTolerance) {
        log.log(LogLevel::kWarning, "the rate of this model cannot be set finer: " + fixed(report.bpw_coded, 3) +
                                        " instead of " + fixed(wanted, 3) + " bits per weight");
      }
      NWC_ASSIGN_OR_RETURN(const uint64_t size, pass.writer.commit());
      assert(size == pass.report.file_bytes);
      (void)size;
      pass.report.passes = number;
      return std::move(pass.report);
    }
    if (allowed && std::abs(error) < best_error) {
      best_error = std::abs(error);
      best_step = log_step;
    }
    // The last pass repeats the best one, to keep it.
    log_step -= std::clamp((error + (work.options.file_bytes != 0 ? kAim / 2 : 0)) / rate->slope(log_step), -2.0, 2.0);
    if (number + 1 == kMaxPasses) log_step = best_step;
  }
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
            .options = options,
            .path = path,
            .progress = progress,
            .plan = plan_model(source, options.min_elements),
            .runner = make_thread_pool(options.threads)};
  NWC_ASSIGN_OR_RETURN(RateModel rate,
                       RateModel::survey(source, codec, options.calibration, options.choices, &work.plan, progress));
  CompressReport report;
  if (rate.coded_weights() > 0) {
    NWC_ASSIGN_OR_RETURN(report, reach_rate(work, &rate, log));
  } else {
    log.log(LogLevel::kWarning, "no tensor of this model is large enough to be coded; all are stored as they are");
    NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, nullptr, nullptr, 0));
    NWC_TRY(pass.writer.commit());
    report = std::move(pass.report);
    report.passes = 1;
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace nwc
