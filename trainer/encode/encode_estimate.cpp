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

}  // namespace

Result<CompressEstimate> estimate_compress(const ModelSource& source, const CodecModel& codec,
                                           const CompressOptions& options, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<Runner> runner = make_thread_pool(options.threads);
  std::vector<PlannedTensor> plan = plan_model(source, options.min_elements);
  NWC_ASSIGN_OR_RETURN(RateModel rate,
                       RateModel::survey(source, codec, options.calibration, options.choices, &plan, progress));
  CompressEstimate out;
  uint64_t largest = 0, factors = 0, sampled = 0;
  NWC_ASSIGN_OR_RETURN(uint64_t raw, description_bytes(source, options));
  for (const PlannedTensor& p : plan) {
    const SourceTensor& t = source.tensors()[p.source];
    if (!p.coded) raw += t.num_bytes();
    largest = std::max(largest, t.num_elements());
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
    for (const SurveyedTensor& t : rate.tensors()) {
      sampled += t.sample_rows.size() * t.n;
      factors += options.calibration != nullptr ? 4 * t.n * t.n : 0;
    }
    out.bits = 8 * estimate.bytes / weights;
    out.file_bytes += static_cast<uint64_t>(estimate.bytes);
    if (options.file_bytes != 0 && log_step >= rate.step_range().coarsest && out.file_bytes > options.file_bytes)
      return invalid_argument("the smallest file that this codec makes of this model has about " +
                              std::to_string(out.file_bytes) + " bytes, " + std::to_string(options.file_bytes) +
                              " bytes asked for");
    if (rate.choices().allocation == Allocation::kFisher) out.predicted_kld = estimate.weighted_error / 2;
    out.seconds = searched + kTypicalPasses * seconds_since(measured) * weights / static_cast<double>(sampled);
  }
  // A tensor as floats three times (source, wanted, error), its values and payload; samples; factors that are kept.
  const uint64_t together = runner->num_workers();
  out.memory_bytes = together * largest * (3 * 4 + 2 + 1) + 4 * sampled + std::min(factors, uint64_t{1} << 30);
  return out;
}

}  // namespace nwc
