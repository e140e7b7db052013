// Surveys a model before it is coded, and finds the common step with which the file gets the wanted size.
#pragma once

#include <memory>
#include <vector>

#include "runtime/base/log.h"
#include "trainer/calib/calibration.h"
#include "trainer/data/column_powers.h"
#include "trainer/parallel/ranks.h"
#include "trainer/plan/factor_store.h"
#include "trainer/plan/model_plan.h"
#include "trainer/plan/step_plan.h"
#include "trainer/plan/surveyed_tensor.h"

namespace nwc {

/// The choices, beside the rate, that determine a file.
struct CodingChoices {
  QuantizerChoice quantizer;
  Importance importance = Importance::kWaterfill;
  bool feedback = true;  ///< LDLQ, where there are Hessians
  Allocation allocation = Allocation::kFisher;
  bool row_importance = true;  ///< steps by row, where it is known
  double rdo_strength = 0.5;
  /// What is added to the diagonal of Hessians, times its median: for error feedback, and for the shares of the columns.
  /// Two numbers, as more of the first is good for other texts, but flattens the second, the water-filling.
  double damping = 0.03;
  double allocation_damping = 0.007;
  double head_bits = 1;      ///< without kFisher: how much finer embedding and head are
  bool shrinkage = true;     ///< reconstruct at the mean of what is rounded there, not at the points themselves
  bool refit_tables = true;  ///< false: the ladder's own tables and no shrinkage
};

/// Adapts the choices to the source. Without a calibration there are no Hessians and no row importance. A model then
/// gets one step for all tensors, because they have a scale in common, and bare tensors get equal rates. With the
/// powers of columns, bare tensors are those of a model, too, and columns are told apart.
CodingChoices settle(CodingChoices choices, const ModelSource& source, bool calibrated, bool powers);

/// What is known of a model's errors beside its weights.
struct KnownCosts {
  const Calibration* calibration = nullptr;
  const ColumnPowers* powers = nullptr;  ///< of columns; not looked at where there is a calibration
};

/// A codec for one common step, and how steps become its levels.
struct FittedCodec {
  CodecModel codec;            ///< the levels in use
  std::vector<uint8_t> rungs;  ///< [K]: of each level its number in the ladder
  std::vector<uint8_t> level_of_rung;
};

struct RateEstimate {
  double bytes = 0;           ///< of coded tensors and CODEC section
  double weighted_error = 0;  ///< QuantizeStatistics::weighted_error of the whole model
};

/// What a survey and what follows it work with. They outlive the model.
struct SurveyMeans {
  Runner& runner;
  Ranks& ranks = one_rank();
  std::string scratch;  ///< a folder for factors that do not fit memory; empty: they are made again where needed
  uint64_t sample_weights = uint64_t{16} << 20;  ///< choose_samples: of the whole model
};

class RateModel {
 public:
  /// Of factors of Hessians, in memory.
  static constexpr uint64_t kKeptFactorBytes = uint64_t{1} << 30;
  /// Of those that are needed at once while samples are coded, if they are not of one tensor alone.
  static constexpr uint64_t kFactorBytesOfSamples = uint64_t{2} << 30;

  /// Reads every tensor once, at its owner. A tensor that is all zero, or holds NaN or infinity, becomes raw in the
  /// plan. costs: none for data-free coding (choices that need them are then ignored). They outlive the model. All
  /// ranks make these calls and get the same results: survey, fit, find_step, estimate.
  static Result<RateModel> survey(const ModelSource& source, const CodecModel& codec, const KnownCosts& costs,
                                  const CodingChoices& choices, std::vector<PlannedTensor>* plan,
                                  const Progress& progress, const SurveyMeans& means);

  /// The codec for a common step (log2): levels, tables, shrinkage, from passes over the samples.
  Result<FittedCodec> fit(double log_step, Runner& runner, RateEstimate* estimate);
  /// Returns the common step whose estimate is nearest to `bytes`, as far as a few fits can tell. *fitted is the result
  /// of fit() there. If no step gives as much or as little, an end of step_range() is returned. errors: kCancelled, the
  /// calibration's
  Result<double> find_step(double bytes, Runner& runner, const Progress& progress, FittedCodec* fitted);

  /// What a fitted codec gives on the samples, scaled up to the model.
  Result<RateEstimate> estimate(double log_step, const FittedCodec& fitted, Runner& runner) {
    return measure(log_step, fitted, runner, nullptr, nullptr);
  }

  /// Everything that quantizing tensor `t` in full needs. errors: the calibration's
  Result<std::shared_ptr<const FeedbackFactors>> factors(const SurveyedTensor& t);
  TensorSteps steps(const SurveyedTensor& t, double log_step, const FittedCodec& fitted) const;

  const std::vector<SurveyedTensor>& tensors() const { return tensors_; }
  const SurveyedTensor* find(size_t source) const;
  const CodingChoices& choices() const { return choices_; }
  /// The reason why factors have to be made more than once, or empty.
  const std::string& scratch_trouble() const { return kept_->trouble(); }
  uint64_t coded_weights() const { return coded_weights_; }
  /// The range of common steps in which files differ.
  StepRange step_range() const;
  /// The approximate change of bits per weight for an octave of the step.
  double slope(double log_step) const;

 private:
  size_t number(const SurveyedTensor& t) const { return static_cast<size_t>(&t - tensors_.data()); }
  /// At its owner. w: all of the tensor
  Status survey_tensor(std::span<const float> w, SurveyedTensor* s);
  bool calibrated(const SurveyedTensor& t) const;
  bool is_head(const SurveyedTensor& t) const;  ///< or the embedding
  /// Is its step one of those that choices().allocation compares?
  bool shares_scale(const SurveyedTensor& t) const;
  Status weigh_by_calibration(SurveyedTensor* s, TensorImportance* importance);
  Status weigh_by_powers(const SurveyedTensor& s, TensorImportance* importance) const;
  void forget_raw(const std::vector<PlannedTensor>& plan);
  FittedCodec fit_levels(double log_step) const;
  Result<RateEstimate> measure(double log_step, const FittedCodec& fitted, Runner& runner, ValueStatistics* values,
                               double* sampled_share);
  size_t end_of_samples(size_t begin) const;
  SampledTensor sample_tensor(const SurveyedTensor& t, double log_step, const FittedCodec& fitted,
                              const TableCosts& costs, const FeedbackFactors* feedback, Runner& runner) const;
  double gaussian_bits(double log_step) const;
  double gaussian_bits(const SurveyedTensor& t, double log_step) const;
  HessianKind hessian_kind() const {
    return choices_.allocation == Allocation::kFisher ? HessianKind::kFisher : HessianKind::kActivation;
  }
  /// Kept for later calls of factors().
  Result<std::shared_ptr<const FeedbackFactors>> make_factors(const SurveyedTensor& t,
                                                              const TensorStatistics& statistics);

  Ranks* ranks_ = nullptr;
  Runner* runner_ = nullptr;
  const ModelSource* source_ = nullptr;
  KnownCosts costs_;
  CodingChoices choices_;
  CodecModel ladder_;
  std::vector<SurveyedTensor> tensors_;
  uint64_t coded_weights_ = 0;
  std::optional<FactorStore> kept_;  ///< by tensor
};

}  // namespace nwc
