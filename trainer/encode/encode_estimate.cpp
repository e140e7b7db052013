#include <algorithm>
#include <chrono>

#include "trainer/encode/encoder.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {
namespace {

constexpr double kTypicalPasses = 1.3;  ///< over the whole model; most targets are met by the first

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What describes the model beside its weights, as the file stores it.
Result<uint64_t> description_bytes(const ModelSource& source, const CompressOptions& options) {
  uint64_t bytes = 0;
  if (source.tokenizer()) bytes += deflate_bytes(serialize(*source.tokenizer())).size();
  if (!options.keep_source) return bytes;
  NWC_ASSIGN_OR_RETURN(const SourceFiles files, source.source_files());
  if (!files.record.files.empty()) bytes += deflate_bytes(serialize(files.record)).size();
  return bytes;
}

/// The most memory that the survey, a fit or the coding of a tensor takes, beside what is kept all the time.
uint64_t memory_bytes(const RateModel& rate, const CompressOptions& options, uint32_t workers) {
  const bool feedback = options.calibration != nullptr && rate.choices().feedback;
  uint64_t kept = 0, samples = 0, sampled = 0, largest = 0, most = 0;
  for (const SurveyedTensor& t : rate.tensors()) {
    const uint64_t weights = t.m * t.n, upper = FactorStore::memory_bytes(feedback ? t.n : 0);
    kept += upper;
    samples += t.sample_rows.size() * t.n;
    if (!t.sample_rows.empty()) {
      sampled += upper;
      largest = std::max(largest, upper);
    }
    // The tensor as floats; H in floats, half of it in doubles, and U.
    const uint64_t survey = 4 * weights + 3 * upper;
    // Floats, values and payload; of each row band that a thread works on what it was, is to be, and misses.
    const uint64_t together = quantized_together(t, feedback, workers);
    const uint64_t coding =
        together * (4 * weights + 2 * weights + weights / 2 + upper) + uint64_t{workers} * 12 * t.tile_rows * t.n;
    most = std::max({most, survey, coding});
  }
  // Those of 16 tensors at once; of what is kept in memory there is one copy.
  const uint64_t fitting = std::min(sampled, std::max(largest, RateModel::kFactorBytesOfSamples));
  return std::max(most, fitting) + 4 * samples + std::min(kept, RateModel::kKeptFactorBytes);
}

uint64_t scratch_bytes(const RateModel& rate, const CompressOptions& options) {
  if (options.calibration == nullptr || !rate.choices().feedback) return 0;
  std::vector<uint64_t> sizes;
  for (const SurveyedTensor& t : rate.tensors()) sizes.push_back(t.n);
  return FactorStore::file_bytes(sizes, RateModel::kKeptFactorBytes);
}

}  // namespace

Result<CompressEstimate> estimate_compress(const ModelSource& source, const CodecModel& codec,
                                           const CompressOptions& options, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<Runner> runner = make_thread_pool(options.threads);
  std::vector<PlannedTensor> plan = plan_model(source, options.min_elements);
  NWC_ASSIGN_OR_RETURN(RateModel rate,
                       RateModel::survey(source, codec, {options.calibration, options.powers}, options.choices, &plan,
                                         progress, {*runner, one_rank(), options.scratch}));
  CompressEstimate out;
  uint64_t sampled = 0, largest_raw = 0;
  NWC_ASSIGN_OR_RETURN(uint64_t raw, description_bytes(source, options));
  for (const PlannedTensor& p : plan) {
    const SourceTensor& t = source.tensors()[p.source];
    if (p.coded) continue;
    raw += t.num_bytes();
    largest_raw = std::max(largest_raw, t.num_bytes());
  }
  out.file_bytes = raw;
  if (rate.coded_weights() > 0) {
    const double weights = static_cast<double>(rate.coded_weights());
    const double target = options.file_bytes == 0
                              ? options.bits * weights / 8
                              : std::max(1.0, static_cast<double>(options.file_bytes) - static_cast<double>(raw));
    FittedCodec fitted;
    NWC_ASSIGN_OR_RETURN(const double log_step, rate.find_step(target, *runner, progress, &fitted));
    const double searched = seconds_since(start);
    const auto measured = std::chrono::steady_clock::now();
    NWC_ASSIGN_OR_RETURN(const RateEstimate estimate, rate.estimate(log_step, fitted, *runner));
    for (const SurveyedTensor& t : rate.tensors()) sampled += t.sample_rows.size() * t.n;
    out.bits = 8 * estimate.bytes / weights;
    out.file_bytes += static_cast<uint64_t>(estimate.bytes);
    if (options.file_bytes != 0 && log_step >= rate.step_range().coarsest && out.file_bytes > options.file_bytes)
      return invalid_argument("the smallest file that this codec makes of this model has about " +
                              std::to_string(out.file_bytes) + " bytes, " + std::to_string(options.file_bytes) +
                              " bytes asked for");
    if (rate.choices().allocation == Allocation::kFisher) out.predicted_kld = estimate.weighted_error / 2;
    out.seconds = searched + kTypicalPasses * seconds_since(measured) * weights / static_cast<double>(sampled);
  }
  out.scratch_bytes = scratch_bytes(rate, options);
  out.memory_bytes = std::max(memory_bytes(rate, options, runner->num_workers()), largest_raw);
  return out;
}

}  // namespace nwc
