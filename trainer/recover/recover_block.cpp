#include "trainer/recover/recover_block.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "trainer/linalg/multiply.h"
#include "trainer/optim/adam.h"
#include "trainer/recover/tuning_sequences.h"

namespace nwc {
namespace {

/// Gradients that are in memory together. A constant: the order of additions must not depend on the threads.
constexpr size_t kShards = 4;
constexpr uint64_t kOrderStream = 0x6f72;

/// A parameter tensor as a flat array; matrices first, then gains and biases.
std::span<float> parameter(const LayerGraph& graph, LayerWeights<float>* w, size_t i) {
  const size_t matrices = graph.matrices().size();
  if (i < matrices) return {w->matrices[i].data(), static_cast<size_t>(w->matrices[i].size())};
  const LayerVector& v = graph.vectors()[i - matrices];
  return {w->vectors.data() + v.at, static_cast<size_t>(v.size)};
}

struct Scratch {
  RowMatrix<float> in, error, metric_error;
};

class Recovery {
 public:
  Recovery(const LayerGraph& graph, LayerWeights<float>* weights, const FrozenMatrices& frozen,
           const RecoveryData& data, const RecoveryOptions& options, Runner& runner)
      : graph_(graph),
        weights_(weights),
        data_(data),
        options_(options),
        runner_(runner),
        passes_(runner.num_workers()),
        scratch_(runner.num_workers()) {
    TuningSequences split = split_sequences(data.lengths, options.validation);
    training_ = std::move(split.training);
    judging_ = std::move(split.judging);
    const size_t matrices = graph.matrices().size(), parameters = matrices + graph.vectors().size();
    tuned_.resize(parameters);
    scale_.resize(parameters);
    adam_.resize(parameters);
    for (size_t i = 0; i < parameters; ++i) {
      const std::span<const float> values = parameter(graph, weights, i);
      tuned_[i] = i < matrices ? !frozen[i] : options.tune_norms && !decides(graph.vectors()[i - matrices].role);
      if (!tuned_[i]) continue;
      adam_[i] = Adam(values.size());
      const float offset = i >= matrices && graph.vectors()[i - matrices].one_plus ? 1.0f : 0.0f;
      double squares = 0;
      for (const float v : values) squares += double{v + offset} * double{v + offset};
      scale_[i] = std::sqrt(squares / static_cast<double>(values.size()));
    }
  }

  Result<RecoveryResult> run(const Progress& progress);

 private:
  double token_weight(Eigen::Index t) const {
    return data_.token_weight.empty() ? 1.0 : double{data_.token_weight[static_cast<size_t>(t)]};
  }
  /// scratch: error and its product with the metric; returns the weighted sum of error * metric * error.
  double cost(Eigen::Index begin, Scratch* scratch) const;
  /// Over the judging sequences: of the block (or, with `empty`, of none).
  double judge(bool empty);
  void epoch(uint32_t number, uint64_t* step, uint64_t steps);
  void update(std::span<const Sequence> batch, double rate);

  const LayerGraph& graph_;
  LayerWeights<float>* weights_;
  const RecoveryData& data_;
  const RecoveryOptions& options_;
  Runner& runner_;
  std::vector<Sequence> training_, judging_;
  std::vector<LayerPass<float>> passes_;  ///< one per worker
  std::vector<Scratch> scratch_;          ///< one per worker
  std::array<LayerWeights<float>, kShards> gradient_;
  std::vector<bool> tuned_;  ///< by parameter(), as what follows
  std::vector<double> scale_;
  std::vector<Adam> adam_;
  double unit_ = 1;  ///< cost of an empty block, per weighted token
};

double Recovery::cost(Eigen::Index begin, Scratch* scratch) const {
  if (data_.metric != nullptr) {
    scratch->metric_error.resize(scratch->error.rows(), data_.metric->cols());
    multiply<float>(Form::kAB, scratch->error, *data_.metric, false, scratch->metric_error);
  } else {
    scratch->metric_error = scratch->error;
  }
  double total = 0;
  for (Eigen::Index t = 0; t < scratch->error.rows(); ++t) {
    total += token_weight(begin + t) * double{scratch->error.row(t).dot(scratch->metric_error.row(t))};
  }
  return total;
}

double Recovery::judge(bool empty) {
  std::vector<double> costs(judging_.size());
  parallel_for(runner_, static_cast<uint32_t>(costs.size()), [&](uint32_t i, uint32_t worker) {
    const Sequence& s = judging_[i];
    Scratch& scratch = scratch_[worker];
    scratch.in = data_.inputs->middleRows(s.begin, s.length);
    scratch.error =
        empty ? scratch.in : passes_[worker].forward(graph_, *weights_, scratch.in, std::span(&s.length, 1));
    scratch.error -= data_.targets->middleRows(s.begin, s.length);
    costs[i] = cost(s.begin, &scratch);
  });
  double total = 0;
  for (const double c : costs) total += c;
  return total;
}

void Recovery::update(std::span<const Sequence> batch, double rate) {
  double weight = 0;
  for (const Sequence& s : batch) {
    for (Eigen::Index t = s.begin; t < s.begin + s.length; ++t) weight += token_weight(t);
  }
  if (!(weight > 0)) return;
  const size_t shards = std::min(kShards, batch.size());
  parallel_for(runner_, static_cast<uint32_t>(shards), [&](uint32_t shard, uint32_t worker) {
    LayerWeights<float>& gradient = gradient_[shard];
    gradient.matrices.resize(weights_->matrices.size());
    for (size_t m = 0; m < gradient.matrices.size(); ++m) {
      if (tuned_[m]) gradient.matrices[m].setZero(weights_->matrices[m].rows(), weights_->matrices[m].cols());
    }
    if (options_.tune_norms) gradient.vectors.setZero(weights_->vectors.size());
    Scratch& scratch = scratch_[worker];
    for (size_t i = shard; i < batch.size(); i += shards) {
      const Sequence& s = batch[i];
      scratch.in = data_.inputs->middleRows(s.begin, s.length);
      scratch.error = passes_[worker].forward(graph_, *weights_, scratch.in, std::span(&s.length, 1));
      scratch.error -= data_.targets->middleRows(s.begin, s.length);
      cost(s.begin, &scratch);
      for (Eigen::Index t = 0; t < s.length; ++t) {
        scratch.metric_error.row(t) *= static_cast<float>(2 * token_weight(s.begin + t) / (weight * unit_));
      }
      passes_[worker].backward(graph_, *weights_, scratch.metric_error, nullptr, &gradient);
    }
  });
  parallel_for(runner_, static_cast<uint32_t>(tuned_.size()), [&](uint32_t i, uint32_t) {
    if (!tuned_[i]) return;
    const std::span<float> sum = parameter(graph_, &gradient_[0], i);
    for (size_t shard = 1; shard < shards; ++shard) {
      const std::span<const float> other = parameter(graph_, &gradient_[shard], i);
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += other[k];
    }
    adam_[i].step(parameter(graph_, weights_, i), sum, rate * scale_[i], 0);
  });
}

void Recovery::epoch(uint32_t number, uint64_t* step, uint64_t steps) {
  std::vector<Sequence> order = training_;
  shuffle_sequences(options_.seed, kOrderStream, number, &order);
  for (size_t first = 0; first < order.size();) {
    const size_t last = batch_end(order, first, options_.batch_tokens);
    const double rate = options_.learning_rate;
    update({order.data() + first, last - first}, cosine_learning_rate(*step, steps, steps / 20, rate, rate / 10));
    ++*step;
    first = last;
  }
}

Result<RecoveryResult> Recovery::run(const Progress& progress) {
  const Status not_finite = corrupt("the block's output is not finite: its weights or its inputs must be wrong");
  double weight = 0;
  for (const Sequence& s : judging_) {
    for (Eigen::Index t = s.begin; t < s.begin + s.length; ++t) weight += token_weight(t);
  }
  const double empty = judge(true);
  RecoveryResult result;
  if (!std::isfinite(empty)) return not_finite;
  if (!(empty > 0) || !(weight > 0)) return result;  // nothing is asked of the block
  unit_ = empty / weight;
  result.before = result.after = judge(false) / empty;
  if (!std::isfinite(result.before)) return not_finite;

  // An upper estimate: the order of the sequences decides how they fill the batches.
  uint64_t steps = 0;
  for (size_t first = 0; first < training_.size(); ++steps) first = batch_end(training_, first, options_.batch_tokens);
  steps *= options_.epochs;
  uint64_t step = 0;
  LayerWeights<float> best = *weights_;
  for (uint32_t e = 1; e <= options_.epochs; ++e) {
    const bool go_on = progress.report(e - 1, options_.epochs);
    if (!go_on) {
      *weights_ = std::move(best);
      return Status(StatusCode::kCancelled, "recovery fine-tuning was cancelled");
    }
    epoch(e, &step, steps);
    const double error = judge(false) / empty;
    if (error < result.after) {  // never true of a NaN
      result.after = error;
      result.best_epoch = e;
      best = *weights_;
    }
  }
  *weights_ = std::move(best);
  return result;
}

Status check(const LayerGraph& graph, const LayerWeights<float>& weights, const FrozenMatrices& frozen,
             const RecoveryData& data, const RecoveryOptions& options) {
  if (!graph.fits(weights) || frozen.size() != weights.matrices.size()) {
    return invalid_argument("recovery: a matrix or the vectors of the block have the wrong shape");
  }
  Eigen::Index tokens = 0;
  for (const uint32_t length : data.lengths) {
    tokens += length;
    if (static_cast<Eigen::Index>(length) > graph.context())
      return invalid_argument("recovery: a sequence is longer than the block was made for");
  }
  const auto fits = [&](const RowMatrix<float>* m, Eigen::Index rows) {
    return m != nullptr && m->rows() == rows && m->cols() == graph.hidden();
  };
  if (tokens == 0 || !fits(data.inputs, tokens) || !fits(data.targets, tokens)) {
    return invalid_argument(
        "recovery: inputs and targets must be [tokens][hidden], and the lengths add up to the tokens");
  }
  if (!data.inputs->allFinite() || !data.targets->allFinite()) {
    return corrupt("recovery: inputs or targets are not finite: the model's weights or its description must be wrong");
  }
  if (!data.token_weight.empty() && data.token_weight.size() != static_cast<size_t>(tokens)) {
    return invalid_argument("recovery: one weight per token is needed");
  }
  if (data.metric != nullptr && !fits(data.metric, graph.hidden())) {
    return invalid_argument("recovery: the metric must be [hidden][hidden]");
  }
  if (!(options.learning_rate > 0) || !(options.validation >= 0 && options.validation < 1) ||
      options.batch_tokens == 0) {
    return invalid_argument("recovery: learning rate, validation share or batch is out of range");
  }
  return {};
}

}  // namespace

Result<RecoveryResult> recover_block(const LayerGraph& graph, LayerWeights<float>* weights,
                                     const FrozenMatrices& frozen, const RecoveryData& data,
                                     const RecoveryOptions& options, Runner& runner, const Progress& progress) {
  NWC_TRY(check(graph, *weights, frozen, data, options));
  const bool anything = options.tune_norms || std::find(frozen.begin(), frozen.end(), false) != frozen.end();
  RecoveryOptions actual = options;
  if (!anything) actual.epochs = 0;
  return Recovery(graph, weights, frozen, data, actual, runner).run(progress);
}

}  // namespace nwc
