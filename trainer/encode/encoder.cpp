#include "trainer/encode/encoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "runtime/base/half.h"
#include "trainer/encode/container_write.h"

namespace nwc {
namespace {

constexpr double kAim = 0.005;       ///< bits per weight
constexpr double kTolerance = 0.02;  ///< bits per weight
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

/// The codec with its levels by rising rate, as level policies expect them.
CodecModel order_levels(const CodecModel& codec) {
  std::vector<uint8_t> order(codec.record.num_levels);
  std::iota(order.begin(), order.end(), uint8_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](uint8_t a, uint8_t b) { return codec.record.rate[a] < codec.record.rate[b]; });
  return subset_levels(codec, order);
}

/// Everything that the passes share.
struct Work {
  const ModelSource& source;
  const CompressOptions& options;
  const std::string& path;
  const Progress& progress;
  CodecModel codec;  ///< all levels, by rising rate
  std::vector<PlannedTensor> plan;
  std::unique_ptr<Runner> runner;
  LevelPolicy* policy;
  TensorQuantizer* quantizer;
  Rounding rounding;
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

Status append_coded(const Work& work, const CodecModel& codec, const EncodeTables& tables, const TableCosts& costs,
                    const std::vector<uint8_t>& level_map, double quality, size_t index, TensorRecord record,
                    Pass* pass, QuantizeStatistics* total) {
  const size_t source = work.plan[index].source;
  const uint64_t m = record.rows(), n = record.cols();
  NWC_ASSIGN_OR_RETURN(const std::vector<float> w, work.source.read_f32(source));
  std::vector<uint8_t> level = work.policy->levels(source, n, quality, work.codec.record.num_levels);
  for (uint8_t& l : level) l = level_map[l];
  TensorScales scales = fit_scales(w, m, n, work.options.row_scales, *work.runner);
  QuantizeStatistics statistics;
  NWC_ASSIGN_OR_RETURN(const QuantizedTensor quantized, work.quantizer->quantize({.codec = codec,
                                                                                  .costs = costs,
                                                                                  .rounding = work.rounding,
                                                                                  .source = source,
                                                                                  .w = w,
                                                                                  .m = m,
                                                                                  .n = n,
                                                                                  .scales = std::move(scales),
                                                                                  .level = std::move(level),
                                                                                  .runner = *work.runner,
                                                                                  .statistics = &statistics}));
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
  total->squared_error += statistics.squared_error;
  total->squared_weight += statistics.squared_weight;
  return {};
}

Status append_raw(const Work& work, size_t index, TensorRecord record, Pass* pass) {
  const SourceTensor& tensor = work.source.tensors()[work.plan[index].source];
  std::vector<uint8_t> bytes(static_cast<size_t>(record.raw_bytes()));
  NWC_TRY(work.source.read_raw(work.plan[index].source, bytes).with_context("tensor " + tensor.name));
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
  provenance["calibration"] = work.options.calibration;
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

/// Levels of a linear codec differ in their step alone. One step between two costs up to 0.01 bit less than columns of
/// both, at levels a quarter of a bit apart. `used`: pairs of neighbours, mixed at `fraction`; anything else: nothing.
std::optional<CodecModel> merge_level_pairs(const CodecModel& codec, const std::vector<uint8_t>& used, double fraction,
                                            std::vector<uint8_t>* level_map) {
  if (fraction <= 0 || used.size() % 2 != 0) return {};
  std::vector<uint8_t> nearest;
  for (size_t i = 0; i < used.size(); i += 2) {
    if (used[i + 1] != used[i] + 1) return {};
    nearest.push_back(used[fraction < 0.5 ? i : i + 1]);
  }
  CodecModel merged = subset_levels(codec, nearest);
  for (size_t i = 0; i < used.size(); ++i) (*level_map)[used[i]] = static_cast<uint8_t>(i / 2);
  for (size_t i = 0; i < nearest.size(); ++i) {
    const double low = codec.record.step[used[2 * i]], high = codec.record.step[used[2 * i + 1]];
    merged.record.step[i] = static_cast<float>(low * std::pow(high / low, fraction));
  }
  return merged;
}

/// The embedding and the output head touch every token and have nothing behind them that could make up for an error.
std::vector<uint32_t> head_offsets(const ModelSource& source, const CodecRecord& codec, double bits) {
  if (!source.model() || bits <= 0 || codec.num_levels < 2) return {};
  const auto [low, high] = std::minmax_element(codec.rate.begin(), codec.rate.end());
  const double per_level = (*high - *low) / (codec.num_levels - 1.0);
  if (!(per_level > 0)) return {};
  std::vector<uint32_t> offset(source.tensors().size(), 0);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    if (const auto i = source.find(name)) offset[*i] = static_cast<uint32_t>(std::lround(bits / per_level));
  return offset;
}

Result<Pass> encode_pass(const Work& work, const RateModel& rate, double quality) {
  std::optional<CodecModel> codec;
  std::vector<uint8_t> level_map(work.codec.record.num_levels, 0);
  bool refitted = false;
  if (rate.coded_weights() > 0) {
    const std::vector<uint8_t> used = rate.used_levels(*work.policy, quality, work.codec.record.num_levels);
    codec = subset_levels(work.codec, used);
    for (size_t i = 0; i < used.size(); ++i) level_map[used[i]] = static_cast<uint8_t>(i);
    const std::vector<uint8_t> before = serialize(codec->record);
    if (work.options.refit_tables && work.options.policy == nullptr && codec->record.synthesis.width == 0) {
      codec = merge_level_pairs(work.codec, used, quality - std::floor(quality), &level_map).value_or(*codec);
    }
    if (work.options.refit_tables) {
      const auto expect = [&] {
        return rate.expected_values(*codec, level_map, work.rounding, *work.policy, quality, *work.runner);
      };
      ExpectedValues expected = expect();
      // A linear synthesis takes any shrinkage; a network was trained with its own.
      if (codec->record.synthesis.width == 0) {
        for (size_t l = 0; l < expected.shrink.size(); ++l)
          codec->record.shrink[l] = static_cast<float>(expected.shrink[l]);
        if (work.rounding.rdo_strength > 0) expected = expect();
      }
      codec->record = refit_tables(codec->record, expected);
      refitted = serialize(codec->record) != before;
    }
  }
  const std::vector<TensorRecord> records = announce_records(work);
  NWC_ASSIGN_OR_RETURN(
      ModelWriter writer,
      ModelWriter::create(work.path, metadata_sections(work, codec ? &*codec : nullptr, refitted), records));
  Pass pass{std::move(writer), {}};
  CompressReport& report = pass.report;
  report.tensors.resize(records.size());
  report.quality = quality;
  report.refitted_tables = refitted;

  const CodecRecord none;
  const CodecRecord& record = codec ? codec->record : none;
  const EncodeTables tables(record);
  const TableCosts costs(record);
  report.levels = record.num_levels;
  report.tables = static_cast<uint32_t>(record.tables.size());
  QuantizeStatistics total;
  for (size_t i = 0; i < records.size(); ++i) {
    if (!work.progress.report(i, records.size())) return Status(StatusCode::kCancelled, "cancelled while encoding");
    report.tensors[i].name = records[i].name;
    report.tensors[i].weights = records[i].num_elements();
    if (work.plan[i].coded) {
      NWC_TRY(append_coded(work, *codec, tables, costs, level_map, quality, i, records[i], &pass, &total)
                  .with_context("tensor " + records[i].name));
    } else {
      NWC_TRY(append_raw(work, i, records[i], &pass));
    }
  }
  NWC_TRY(pass.writer.finish_data());
  report.codec_bytes = codec ? pass.writer.stored_bytes(SectionType::kCodec) : 0;
  report.metadata_bytes = pass.writer.data_offset() - report.codec_bytes;
  report.file_bytes = report.metadata_bytes + report.codec_bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    TensorReport& t = report.tensors[i];
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

/// Encodes, compares, corrects. The estimate's error hardly changes with quality, so the last pass's error is what the
/// next one allows for.
Result<CompressReport> reach_rate(const Work& work, RateModel* rate, const Logger& log) {
  const double weights = static_cast<double>(rate->coded_weights());
  const double target = work.options.bits * weights / 8;
  const double finest = work.codec.record.num_levels - 1.0;
  const auto estimate = [&](double quality) {
    return rate->estimate_bytes(work.codec, work.rounding, *work.policy, quality, *work.runner);
  };
  double quality = rate->find_quality(work.codec, work.rounding, *work.policy, target, *work.runner);
  double best_quality = quality, best_error = INFINITY;
  for (uint32_t number = 1;; ++number) {
    NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, *rate, quality));
    const double error = pass.report.bpw_coded - work.options.bits;
    log.log(LogLevel::kDebug, "pass " + std::to_string(number) + ": quality " + fixed(quality, 4) + ", " +
                                  fixed(pass.report.bpw_coded, 4) + " bits per weight");
    const double actual = static_cast<double>(pass.report.coded_bytes + pass.report.codec_bytes);
    const double offset = actual - estimate(quality);
    const bool last = number >= kMaxPasses && quality == best_quality;
    if (std::abs(error) <= kAim || (number >= kPasses && std::abs(error) <= kTolerance) || last) {
      if (std::abs(error) > kTolerance) {
        log.log(LogLevel::kWarning, "the rate of this model cannot be set finer: " + fixed(pass.report.bpw_coded, 3) +
                                        " instead of " + fixed(work.options.bits, 3) + " bits per weight");
      }
      NWC_ASSIGN_OR_RETURN(const uint64_t size, pass.writer.commit());
      assert(size == pass.report.file_bytes);
      (void)size;
      pass.report.passes = number;
      return std::move(pass.report);
    }
    if ((quality <= 0 && error > kTolerance) || (quality >= finest && error < -kTolerance)) {
      return invalid_argument("this codec needs " + std::string(error > 0 ? "at least " : "at most ") +
                              fixed(pass.report.bpw_coded, 3) + " bits per weight on this model, " +
                              fixed(work.options.bits, 3) + " asked for; choose another rate or codec");
    }
    if (std::abs(error) < best_error) {
      best_error = std::abs(error);
      best_quality = quality;
    }
    // Beyond the passes: the best so far once more, to be kept.
    const double next = number + 1 >= kMaxPasses ? best_quality
                                                 : rate->find_quality(work.codec, work.rounding, *work.policy,
                                                                      target - offset, *work.runner);
    // The ends of the range are reached exactly, so that the error above can be told.
    quality = next < 1e-4 ? 0 : next > finest - 1e-4 ? finest : next;
    if (number + 1 >= kMaxPasses) best_quality = quality;
  }
}

}  // namespace

Result<QuantizedTensor> TensorQuantizer::quantize(Job job) {
  return quantize_tensor(job.codec, job.costs, job.rounding, job.w, job.m, job.n, std::move(job.scales),
                         std::move(job.level), job.runner, job.statistics, nullptr);
}

Result<CompressReport> compress_model(const ModelSource& source, const CodecModel& codec,
                                      const CompressOptions& options, const std::string& path, const Progress& progress,
                                      const Logger& log) {
  const auto start = std::chrono::steady_clock::now();
  if (!(options.bits > 0 && options.bits <= 32))
    return invalid_argument("bits per weight must lie above 0 and below 32");
  NWC_TRY(validate(codec.record).with_context("codec " + codec.name));
  const std::unique_ptr<LevelPolicy> uniform =
      make_uniform_policy(head_offsets(source, codec.record, options.head_bits));
  TensorQuantizer independent;
  Work work{.source = source,
            .options = options,
            .path = path,
            .progress = progress,
            .codec = order_levels(codec),
            .plan = plan_model(source, options.min_elements),
            .runner = make_thread_pool(options.threads),
            .policy = options.policy != nullptr ? options.policy : uniform.get(),
            .quantizer = options.quantizer != nullptr ? options.quantizer : &independent,
            .rounding = {.rdo_strength = options.rdo_strength}};
  NWC_ASSIGN_OR_RETURN(RateModel rate,
                       RateModel::survey(source, &work.plan, options.row_scales, *work.runner, progress));
  CompressReport report;
  if (rate.coded_weights() > 0) {
    NWC_ASSIGN_OR_RETURN(report, reach_rate(work, &rate, log));
  } else {
    log.log(LogLevel::kWarning, "no tensor of this model is large enough to be coded; all are stored as they are");
    NWC_ASSIGN_OR_RETURN(Pass pass, encode_pass(work, rate, 0));
    NWC_TRY(pass.writer.commit());
    report = std::move(pass.report);
    report.passes = 1;
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace nwc
