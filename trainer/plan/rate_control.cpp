#include "trainer/plan/rate_control.h"

#include <algorithm>
#include <cmath>

#include "runtime/format/container.h"
#include "trainer/parallel/message.h"
#include "trainer/plan/exchange.h"
#include "trainer/plan/sample_plan.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {
namespace {

constexpr size_t kSampledTogether = 16;
constexpr int kFitPasses = 5;
constexpr int kFitRounds = 2;
constexpr double kFitTolerance = 0.002;  ///< bits per weight
/// A lane stores 32 bits of state of which 16 to 32, on average 24, carry data, and loses some bits in small states.
constexpr uint64_t kStateCostBytes = 2;
constexpr double kLeastBits = 0.01;  ///< per weight, where a Gaussian needs none
constexpr uint64_t kDirectoryBytes = 8;
constexpr uint64_t kMeanPadding = 32;

template <typename T>
std::vector<T> take(const std::vector<T>& v, const std::vector<uint64_t>& rows) {
  std::vector<T> out;
  if (v.empty()) return out;
  for (const uint64_t r : rows) out.push_back(v[r]);
  return out;
}

}  // namespace

const SurveyedTensor* RateModel::find(size_t source) const {
  const auto at =
      std::find_if(tensors_.begin(), tensors_.end(), [&](const SurveyedTensor& t) { return t.source == source; });
  return at == tensors_.end() ? nullptr : &*at;
}

Result<std::shared_ptr<const FeedbackFactors>> RateModel::factors(const SurveyedTensor& t) {
  NWC_ASSIGN_OR_RETURN(std::shared_ptr<const FeedbackFactors> kept, kept_->get(number(t)));
  if (kept != nullptr || !calibrated(t)) return kept;
  NWC_ASSIGN_OR_RETURN(const TensorStatistics statistics,
                       costs_.calibration->load(source_->tensors()[t.source].name, hessian_kind()));
  return make_factors(t, statistics);
}

Result<std::shared_ptr<const FeedbackFactors>> RateModel::make_factors(const SurveyedTensor& t,
                                                                       const TensorStatistics& statistics) {
  const std::string& name = source_->tensors()[t.source].name;
  if (statistics.n != t.n || statistics.m != t.m) return corrupt("calibration of " + name + ": wrong shape");
  Result<FeedbackFactors> made = factor_hessian(statistics.hessian, t.n, choices_.damping, *runner_);
  if (!made.ok()) return made.status().with_context("calibration of " + name);
  auto out = std::make_shared<const FeedbackFactors>(std::move(*made));
  kept_->put(number(t), out);
  return std::shared_ptr<const FeedbackFactors>(out);
}

TensorSteps RateModel::steps(const SurveyedTensor& t, double log_step, const FittedCodec& fitted) const {
  TensorSteps out = choose_steps(t.profile, ladder_.record, t.log_step + log_step);
  for (uint8_t& level : out.level) level = fitted.level_of_rung[level];
  return out;
}

FittedCodec RateModel::fit_levels(double log_step) const {
  std::vector<bool> used(ladder_.record.num_levels, false);
  for (const SurveyedTensor& t : tensors_) {
    for (const uint8_t level : choose_steps(t.profile, ladder_.record, t.log_step + log_step).level) used[level] = true;
  }
  FittedCodec out;
  out.level_of_rung.assign(used.size(), 0);
  for (size_t rung = 0; rung < used.size(); ++rung) {
    if (!used[rung]) continue;
    out.level_of_rung[rung] = static_cast<uint8_t>(out.rungs.size());
    out.rungs.push_back(static_cast<uint8_t>(rung));
  }
  out.codec = subset_levels(ladder_, out.rungs);
  return out;
}

Result<RateEstimate> RateModel::measure(double log_step, const FittedCodec& fitted, Runner& runner,
                                        ValueStatistics* values, double* sampled_share) {
  const CodecRecord& record = fitted.codec.record;
  const TableCosts costs(record);
  RateEstimate out;
  out.bytes = static_cast<double>(stored_codec_bytes(record));
  std::vector<SampledTensor> parts(tensors_.size());
  ScaledSum weights;
  for (const SurveyedTensor& t : tensors_) weights.add(t, static_cast<double>(t.m * t.n), 0);
  // Factors first: all threads make them. Then tensors side by side, each on a runner of its own.
  std::vector<std::shared_ptr<const FeedbackFactors>> all_factors(tensors_.size());
  std::vector<std::unique_ptr<Runner>> serial;
  for (uint32_t i = 0; i < runner.num_workers(); ++i) serial.push_back(make_thread_pool(1));
  for (size_t begin = 0, end = 0; begin < tensors_.size(); begin = end) {
    end = end_of_samples(begin);
    std::vector<size_t> own;
    for (size_t i = begin; i < end; ++i) {
      if (tensors_[i].owner == ranks_->rank() && !tensors_[i].sample_rows.empty()) own.push_back(i);
    }
    for (const size_t i : own) {
      if (!choices_.feedback) continue;
      NWC_ASSIGN_OR_RETURN(all_factors[i], factors(tensors_[i]));
    }
    parallel_for(runner, static_cast<uint32_t>(own.size()), [&](uint32_t index, uint32_t worker) {
      const size_t at = own[index];
      parts[at] = sample_tensor(tensors_[at], log_step, fitted, costs, all_factors[at].get(), *serial[worker]);
    });
    for (const size_t i : own) all_factors[i].reset();
    NWC_TRY(gather_samples(*ranks_, record, tensors_, begin, end, values != nullptr, &parts));
    for (size_t i = begin; i < end && ranks_->first(); ++i) {
      if (values != nullptr && parts[i].values != nullptr)
        values->add(*parts[i].values, parts[i].scale * weights.scale(tensors_[i].group));
    }
    for (size_t i = begin; i < end; ++i) parts[i].values.reset();
  }
  // Bits are in proportion to those that Gaussians need, errors to weights: steps are shared out so that they are.
  ScaledSum bytes, errors;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const SurveyedTensor& t = tensors_[i];
    const double count = static_cast<double>(t.m * t.n);
    bytes.add(t, gaussian_bits(t, log_step) + kLeastBits * count, parts[i].bytes);
    errors.add(t, count, parts[i].weighted_error);
  }
  out.bytes += bytes.total();
  out.weighted_error = errors.total();
  NWC_TRY(share(*ranks_, &out));
  if (values != nullptr) NWC_TRY(share_values(*ranks_, values));
  uint64_t sampled = 0;
  for (const SurveyedTensor& t : tensors_) sampled += t.sample_rows.size() * t.n;
  if (sampled_share != nullptr) *sampled_share = static_cast<double>(sampled) / static_cast<double>(coded_weights_);
  return out;
}

/// End of the tensors from `begin` on that are sampled side by side: enough for many threads, but not more factors than
/// memory is meant for.
size_t RateModel::end_of_samples(size_t begin) const {
  uint64_t bytes = 0;
  size_t end = begin;
  for (; end < tensors_.size() && end - begin < kSampledTogether * ranks_->size(); ++end) {
    if (choices_.feedback && !tensors_[end].sample_rows.empty()) bytes += FactorStore::memory_bytes(tensors_[end].n);
    if (end > begin && bytes > kFactorBytesOfSamples * ranks_->size()) break;
  }
  return end;
}

/// Codes a tensor's sample, as if it were all of it.
SampledTensor RateModel::sample_tensor(const SurveyedTensor& t, double log_step, const FittedCodec& fitted,
                                       const TableCosts& costs, const FeedbackFactors* feedback, Runner& runner) const {
  SampledTensor part;
  const TensorSteps whole = steps(t, log_step, fitted);
  TensorSteps some = whole;
  some.row_class = take(whole.row_class, t.sample_rows);
  some.scales.row.code = take(whole.scales.row.code, t.sample_rows);
  some.scales.row.value = take(whole.scales.row.value, t.sample_rows);
  const std::vector<float> row_importance = take(t.row_importance, t.sample_rows);
  QuantizeStatistics statistics;
  part.values = std::make_unique<ValueStatistics>(fitted.codec.record);
  quantize_tensor({.codec = fitted.codec,
                   .costs = costs,
                   .rdo_strength = choices_.rdo_strength,
                   .w = t.sample,
                   .m = t.sample_rows.size(),
                   .n = t.n,
                   .steps = some,
                   .feedback = feedback,
                   .row_importance = row_importance,
                   .tile_rows = t.tile_rows},
                  runner, &statistics, part.values.get());
  part.scale = static_cast<double>(t.m) / static_cast<double>(t.sample_rows.size());
  const TileShape shape = choose_tile_shape(t.m, t.n, choices_.quantizer.trellis_bits != 0);
  const TileGrid grid{t.m, t.n, shape.rows, shape.cols};
  const TileGeometry tile = grid.tile(0);
  part.bytes = part.scale * statistics.ideal_bits / 8 +
               static_cast<double>(grid.num_tiles() * (kDirectoryBytes + tile.lanes() * kStateCostBytes) +
                                   deflate_bytes(side_information(whole.scales, whole.level, whole.row_class)).size() +
                                   kMeanPadding);
  part.weighted_error = part.scale * statistics.weighted_error;
  return part;
}

Result<FittedCodec> RateModel::fit(double log_step, Runner& runner, RateEstimate* estimate) {
  FittedCodec fitted = fit_levels(log_step);
  // The search reacts to tables and shrinkage, so that they are fitted more than once; always from the ladder's own, so
  // that neighbouring steps give neighbouring rates.
  for (int round = 0; choices_.refit_tables && round < kFitRounds; ++round) {
    ValueStatistics values(fitted.codec.record);
    double share = 1;
    NWC_ASSIGN_OR_RETURN(*estimate, measure(log_step, fitted, runner, &values, &share));
    fitted.codec.record = refit(fitted.codec.record, fitted.rungs, ladder_.record, values, 1 / share);
    if (!choices_.shrinkage) std::fill(fitted.codec.record.shrink.begin(), fitted.codec.record.shrink.end(), 0.0f);
  }
  NWC_ASSIGN_OR_RETURN(*estimate, measure(log_step, fitted, runner, nullptr, nullptr));
  return fitted;
}

double RateModel::gaussian_bits(double log_step) const {
  double bits = 0;
  for (const SurveyedTensor& t : tensors_) bits += gaussian_bits(t, log_step);
  return bits;
}

double RateModel::gaussian_bits(const SurveyedTensor& t, double log_step) const {
  return static_cast<double>(t.m * t.n) * expected_rate(t.profile, ladder_.record, t.log_step + log_step);
}

double RateModel::slope(double log_step) const {
  constexpr double kDelta = 1.0 / 16;
  const double bits = gaussian_bits(log_step + kDelta) - gaussian_bits(log_step - kDelta);
  return std::min(-0.02, bits / (2 * kDelta) / static_cast<double>(coded_weights_));
}

StepRange RateModel::step_range() const {
  StepRange out{INFINITY, -INFINITY};
  for (const SurveyedTensor& t : tensors_) {
    const StepRange range = nwc::step_range(t.profile, ladder_.record);
    out.finest = std::min(out.finest, range.finest - t.log_step);
    out.coarsest = std::max(out.coarsest, range.coarsest - t.log_step);
  }
  return out;
}

Result<double> RateModel::find_step(double bytes, Runner& runner, const Progress& progress, FittedCodec* fitted) {
  const double weights = static_cast<double>(coded_weights_);
  const StepRange range = step_range();
  StepSearch search(range);
  // What a Gaussian would need, as a start.
  double low = range.finest, high = range.coarsest;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (gaussian_bits(middle) > 8 * bytes ? low : high) = middle;
  }
  double log_step = gaussian_bits(range.finest) < 8 * bytes ? range.finest : (low + high) / 2;
  double best = INFINITY, best_step = log_step;
  for (int pass = 0; pass < kFitPasses; ++pass) {
    if (!progress.report(static_cast<uint64_t>(pass), kFitPasses))
      return Status(StatusCode::kCancelled, "cancelled while fitting tables");
    RateEstimate estimate;
    NWC_ASSIGN_OR_RETURN(FittedCodec next, fit(log_step, runner, &estimate));
    const double error = (estimate.bytes - bytes) * 8 / weights;
    const std::optional<double> other = search.next(log_step, error, slope(log_step));
    // At an end of the range that is still not far enough, the end is the answer.
    const bool end = !other && (log_step <= range.finest || log_step >= range.coarsest);
    if (std::abs(error) < best || end) {
      best = std::abs(error);
      best_step = log_step;
      *fitted = std::move(next);
    }
    if (!other || (pass > 0 && std::abs(error) < kFitTolerance)) break;
    log_step = *other;
  }
  return best_step;
}

}  // namespace nwc
