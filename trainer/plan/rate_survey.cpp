// What RateModel learns of a model before any of it is coded: the steps of its tensors, columns and rows.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "trainer/plan/deal_tensors.h"
#include "trainer/plan/exchange.h"
#include "trainer/plan/rate_control.h"
#include "trainer/plan/sample_plan.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {
namespace {

/// Bits that a tensor of which nothing is known gets above the mean of the others: these are the matrices that pool an
/// encoder's states, and every embedding goes through them. With the mean they undid what calibration brings to the
/// blocks of tiny encoders (tests/encode/test_encoder_calibration.cpp).
constexpr double kUnknownBits = 2;
/// Of columns' powers, added to each in proportion to their mean.
constexpr double kPowerDamping = 0.005;

/// Columns of a deviation below 2^-60 count as zero (step_plan); a tensor of nothing else would be lost.
constexpr float kSmallestCoded = 1e-16f;

/// Makes a tensor raw whose values cannot be coded or need not be.
void note_values(std::span<const float> w, PlannedTensor* p) {
  const auto bad = std::find_if(w.begin(), w.end(), [](float v) { return !std::isfinite(v); });
  if (bad != w.end()) {
    p->values = PlannedTensor::Values::kNotFinite;
    p->why_raw = "element " + std::to_string(bad - w.begin()) + " is " + (std::isnan(*bad) ? "NaN" : "infinite");
  } else if (std::all_of(w.begin(), w.end(), [](float v) { return v == 0; })) {
    p->values = PlannedTensor::Values::kZero;
    p->why_raw = "all zero";
  } else if (std::all_of(w.begin(), w.end(), [](float v) { return std::abs(v) < kSmallestCoded; })) {
    p->why_raw = "all smaller than 1e-16";
  }
  p->coded = p->why_raw.empty();
}

/// SurveyedTensor::log_step that gives tensors steps in proportion to 1 / sqrt(D), whatever their rates. diagonal: [n]
/// D, or empty (1 everywhere). row_importance: [m] of mean 1, or empty.
double common_step(const StepProfile& profile, std::span<const double> diagonal,
                   std::span<const float> row_importance) {
  double level = 0, columns = 0, rows = 0;
  for (const double d : diagonal) level -= 0.5 * std::log2(d) / static_cast<double>(profile.n);
  for (const double c : profile.column_step) columns += c / static_cast<double>(profile.n);
  // Row steps have mean 0.
  if (!profile.row_step.empty()) {
    for (const float g : row_importance)
      rows -= 0.5 * std::log2(static_cast<double>(g)) / static_cast<double>(profile.m);
  }
  return level - columns + rows;
}

/// Of columns of which nothing is known.
Importance without_powers(Importance importance, const ModelSource& source) {
  if (importance != Importance::kPaper && importance != Importance::kWaterfill) return importance;
  return source.model() ? Importance::kFlat : Importance::kNone;
}

}  // namespace

CodingChoices settle(CodingChoices choices, const ModelSource& source, bool calibrated, bool powers) {
  if (!calibrated) {
    choices.feedback = false;
    if (!powers) choices.importance = without_powers(choices.importance, source);
    if (choices.allocation == Allocation::kFisher)
      choices.allocation = source.model() || powers ? Allocation::kWeights : Allocation::kNone;
  }
  choices.row_importance = choices.row_importance && choices.allocation == Allocation::kFisher;
  return choices;
}

Result<RateModel> RateModel::survey(const ModelSource& source, const CodecModel& codec, const KnownCosts& costs,
                                    const CodingChoices& choices, std::vector<PlannedTensor>* plan,
                                    const Progress& progress, const SurveyMeans& means) {
  RateModel model;
  Ranks& ranks = means.ranks;
  model.ranks_ = &ranks;
  model.runner_ = &means.runner;
  model.source_ = &source;
  model.costs_ = costs;
  model.choices_ = settle(choices, source, costs.calibration != nullptr, costs.powers != nullptr);
  model.ladder_ = make_ladder(codec, choices.quantizer);
  const std::vector<uint32_t> owner = deal_tensors(source, *plan, ranks.size(), model.choices_.feedback);
  for (size_t i = 0; i < plan->size(); ++i) {
    PlannedTensor& p = (*plan)[i];
    if (!p.coded) continue;
    p.owner = owner[i];
    const SourceTensor& tensor = source.tensors()[p.source];
    SurveyedTensor& s = model.tensors_.emplace_back();
    s.source = p.source;
    s.owner = p.owner;
    s.m = 1;
    for (uint32_t d = 0; d < p.split; ++d) s.m *= tensor.shape[d];
    s.n = tensor.num_elements() / s.m;
    s.tile_rows = choose_tile_shape(s.m, s.n, choices.quantizer.trellis_bits != 0).rows;
  }
  model.kept_.emplace(means.scratch, kKeptFactorBytes);
  model.kept_->resize(model.tensors_.size());
  choose_samples(&model.tensors_, means.sample_weights);
  size_t next = 0;
  for (size_t i = 0; i < plan->size(); ++i) {
    if (!progress.report(i, plan->size())) return Status(StatusCode::kCancelled, "cancelled while reading the model");
    PlannedTensor& p = (*plan)[i];
    if (!p.coded) continue;
    SurveyedTensor& s = model.tensors_[next++];
    if (p.owner != ranks.rank()) continue;
    NWC_ASSIGN_OR_RETURN(const std::vector<float> w, source.read_any_f32(p.source));
    note_values(w, &p);
    if (p.coded) NWC_TRY(model.survey_tensor(w, &s));
  }
  NWC_TRY(exchange_surveys(ranks, plan, &model.tensors_));
  model.forget_raw(*plan);
  // A tensor that has no scale in common with the others gets their mean rate, or more.
  double sum = 0, count = 0;
  for (const SurveyedTensor& s : model.tensors_) {
    const double weights = static_cast<double>(s.m * s.n);
    model.coded_weights_ += s.m * s.n;
    if (!model.shares_scale(s)) continue;
    sum += weights * (s.log_step - s.profile.mean_octaves());
    count += weights;
  }
  const double more = model.choices_.allocation == Allocation::kFisher ? kUnknownBits : 0;
  for (SurveyedTensor& s : model.tensors_) {
    if (count > 0 && !model.shares_scale(s)) s.log_step += sum / count - more;
  }
  return model;
}

bool RateModel::is_head(const SurveyedTensor& t) const {
  if (!source_->model()) return costs_.powers != nullptr && costs_.powers->is_head(t.source);
  const ModelRecord& model = *source_->model();
  const std::string& name = source_->tensors()[t.source].name;
  return name == model.tensor_name(Role::kEmbedding) || name == model.tensor_name(Role::kHead);
}

bool RateModel::shares_scale(const SurveyedTensor& t) const {
  switch (choices_.allocation) {
    case Allocation::kNone: return false;
    case Allocation::kWeights:
      // Of bare tensors, those that an importance matrix knows are one model's, and so are its embedding and its head.
      return source_->model() || costs_.powers == nullptr || costs_.powers->covers(t.source) || is_head(t);
    case Allocation::kFisher: return calibrated(t);
  }
  return false;
}

bool RateModel::calibrated(const SurveyedTensor& t) const {
  return costs_.calibration != nullptr && costs_.calibration->covers(source_->tensors()[t.source].name);
}

Status RateModel::weigh_by_calibration(SurveyedTensor* s, TensorImportance* importance) {
  const HessianKind kind = hessian_kind();
  NWC_ASSIGN_OR_RETURN(const TensorStatistics statistics,
                       costs_.calibration->load(source_->tensors()[s->source].name, kind));
  NWC_ASSIGN_OR_RETURN(const std::shared_ptr<const FeedbackFactors> factors, make_factors(*s, statistics));
  s->damping = factors->damping;
  importance->diagonal = factors->diagonal;
  if (choices_.allocation_damping != choices_.damping) {
    NWC_ASSIGN_OR_RETURN(FeedbackFactors other,
                         factor_hessian(statistics.hessian, s->n, choices_.allocation_damping, *runner_, false));
    importance->diagonal = std::move(other.diagonal);
  }
  for (uint64_t c = 0; c < s->n; ++c) importance->hessian_diagonal.push_back(statistics.hessian[c * s->n + c]);
  if (kind == HessianKind::kFisher) {
    s->row_importance = statistics.row_importance;
    if (choices_.row_importance) importance->row_importance = statistics.row_importance;
  }
  return {};
}

/// H is diagonal then, and its own D.
Status RateModel::weigh_by_powers(const SurveyedTensor& s, TensorImportance* importance) const {
  NWC_ASSIGN_OR_RETURN(importance->diagonal, costs_.powers->load(s.source));
  std::vector<double>& d = importance->diagonal;
  importance->hessian_diagonal.assign(d.begin(), d.end());
  const double mean = std::accumulate(d.begin(), d.end(), 0.0) / static_cast<double>(s.n);
  for (double& v : d) v += kPowerDamping * mean;
  return {};
}

Status RateModel::survey_tensor(std::span<const float> w, SurveyedTensor* s) {
  TensorImportance importance;
  Importance by = choices_.importance;
  const bool known = calibrated(*s);
  // Experts in one tensor whose rows are coded as columns have no columns of inputs.
  const bool weighed = costs_.calibration == nullptr && costs_.powers != nullptr && costs_.powers->covers(s->source) &&
                       source_->tensors()[s->source].shape.back() == s->n;
  if (known) {
    NWC_TRY(weigh_by_calibration(s, &importance));
  } else if (weighed) {
    NWC_TRY(weigh_by_powers(*s, &importance));
  } else if (costs_.calibration == nullptr) {
    by = without_powers(by, *source_);
  }
  const bool row_classes = ladder_.record.context_kind == ContextKind::kRowClass;
  s->profile = profile_tensor(w, s->m, s->n, importance, by, row_classes);

  // Steps of the tensors against each other: equal rates, or one exchange rate of bits against what errors cost.
  s->log_step = s->profile.mean_octaves();
  const bool by_fisher = choices_.allocation == Allocation::kFisher;
  if (shares_scale(*s))
    s->log_step =
        by_fisher ? common_step(s->profile, importance.diagonal, s->row_importance) : common_step(s->profile, {}, {});
  if (!by_fisher && is_head(*s)) s->log_step -= choices_.head_bits;
  for (const uint64_t r : s->sample_rows) {
    s->sample.insert(s->sample.end(), w.begin() + static_cast<ptrdiff_t>(r * s->n),
                     w.begin() + static_cast<ptrdiff_t>((r + 1) * s->n));
  }
  return {};
}

void RateModel::forget_raw(const std::vector<PlannedTensor>& plan) {
  std::vector<bool> coded(source_->tensors().size(), false);
  for (const PlannedTensor& p : plan) coded[p.source] = p.coded;
  std::vector<size_t> kept;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!coded[tensors_[i].source]) continue;
    if (kept.size() != i) tensors_[kept.size()] = std::move(tensors_[i]);
    kept.push_back(i);
  }
  tensors_.resize(kept.size());
  kept_->renumber(kept);
}

}  // namespace nwc
