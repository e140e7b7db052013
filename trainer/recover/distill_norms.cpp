#include "trainer/recover/distill_norms.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "trainer/data/stored_float.h"
#include "trainer/llm/feature_stream.h"
#include "trainer/llm/layer_pass.h"
#include "trainer/llm/model_graph.h"
#include "trainer/recover/distill_memory.h"
#include "trainer/recover/distill_state.h"
#include "trainer/recover/head_divergence.h"
#include "trainer/recover/tuning_sequences.h"

namespace nwc {
namespace {

constexpr uint64_t kOrderStream = 0x6469;
constexpr double kLayersOfFullSteps = 8;

bool is_gain(Role role) {
  switch (role) {
    case Role::kFinalNorm:
    case Role::kAttentionNorm:
    case Role::kAttentionPostNorm:
    case Role::kMlpNorm:
    case Role::kMlpPostNorm:
    case Role::kQNorm:
    case Role::kKNorm: return true;
    default: return false;
  }
}

/// Where in DistillState::values they are: those of all layers, one behind the other as they are stored, then those of
/// the final norm as they are used.
struct VectorPlaces {
  std::vector<Eigen::Index> layer_at;
  Eigen::Index gain_at = 0, bias_at = 0;
};

uint64_t tokens_of(std::span<const Sequence> sequences) {
  uint64_t out = 0;
  for (const Sequence& s : sequences) out += s.length;
  return out;
}

class Distillation {
 public:
  Distillation(const ModelGraph& wanted, const ModelGraph& coded, const std::vector<bool>& replaceable,
               const DistillChoices& choices, Runner& runner, const Progress& progress, const Logger& log)
      : wanted_(wanted),
        coded_(coded),
        replaceable_(replaceable),
        choices_(choices),
        runner_(runner),
        progress_(progress),
        log_(log),
        passes_(runner.num_workers()),
        inputs_(runner.num_workers()) {}

  Result<DistillResult> run();

 private:
  Status prepare();
  Status keep_layers();
  Status find_parameters();
  Result<const LayerWeights<float>*> weights(uint32_t layer, const RowVector<float>& vectors);
  HeadNorm norm(const RowVector<float>& vectors) const;
  RowMatrix<float> gather(const RowMatrix<float>& of_all, std::span<const Sequence> sequences) const;
  Result<double> judge(const RowVector<float>& vectors);
  Status update(std::span<const Sequence> batch, double rate);
  RowVector<float> as_stored(const RowVector<float>& vectors) const;
  Status step(uint64_t tokens);
  Status begin();
  void keep();

  const ModelGraph& wanted_;
  const ModelGraph& coded_;
  const std::vector<bool>& replaceable_;
  const DistillChoices& choices_;
  Runner& runner_;
  const Progress& progress_;
  const Logger& log_;
  uint64_t done_ = 0;

  std::vector<Sequence> training_, judging_;
  RowMatrix<float> wanted_states_;  ///< [tokens][hidden] that leave the last layer of the uncompressed model
  RowMatrix<float> embedded_;       ///< [tokens][hidden] that enter the first one of the coded model
  HeadWeights<float> wanted_head_, head_;
  std::vector<LayerWeights<float>> kept_;  ///< by layer, or empty
  LayerWeights<float> loaded_;
  VectorPlaces vectors_;
  DistillState state_;
  std::string hash_;  ///< of choices_.files; empty without
  std::chrono::steady_clock::time_point kept_at_ = std::chrono::steady_clock::now();
  std::vector<LayerPass<float>> passes_;  ///< one per worker
  std::vector<RowMatrix<float>> inputs_;  ///< that passes_ refer to
};

Status Distillation::step(uint64_t tokens) {
  done_ += tokens;
  const auto all = static_cast<uint64_t>(embedded_.rows());
  const auto judged = static_cast<uint64_t>(static_cast<double>(all) * choices_.validation);
  const uint64_t total = all + choices_.epochs * 3 * (all - judged) + (choices_.epochs + 1) * judged;
  if (progress_.report(std::min(done_, total), total)) return {};
  return Status(StatusCode::kCancelled, "cancelled while tuning norms");
}

Status Distillation::keep_layers() {
  if (!keeps_layers(coded_)) return {};
  for (uint32_t l = 0; l < coded_.num_layers(); ++l) {
    NWC_ASSIGN_OR_RETURN(kept_.emplace_back(), coded_.load_layer(l));
  }
  return {};
}

Result<const LayerWeights<float>*> Distillation::weights(uint32_t layer, const RowVector<float>& vectors) {
  LayerWeights<float>* out = &loaded_;
  if (kept_.empty()) {
    NWC_ASSIGN_OR_RETURN(loaded_, coded_.load_layer(layer));
  } else {
    out = &kept_[layer];
  }
  out->vectors = vectors.segment(vectors_.layer_at[layer], coded_.layer(layer).vector_elements());
  return out;
}

HeadNorm Distillation::norm(const RowVector<float>& vectors) const {
  return {vectors.segment(vectors_.gain_at, head_.gain.size()),
          vectors.segment(vectors_.bias_at, head_.norm_bias.size())};
}

Status Distillation::find_parameters() {
  const ModelLayout& layout = coded_.layout();
  std::vector<float> all;
  std::map<size_t, int> uses;
  const auto add = [&](size_t tensor, Role role, Eigen::Index at, Eigen::Index size, bool one_plus, bool in_use) {
    if (size == 0 || !replaceable_[tensor] || decides(role)) return;
    ++uses[tensor];
    TunedVector& p = state_.tuned.emplace_back();
    p.tensor = tensor;
    p.at = at;
    p.size = size;
    p.offset = in_use && one_plus ? 1.0f : 0.0f;
    double squares = 0;
    for (Eigen::Index i = at; i < at + size; ++i) {
      const double used = double{all[static_cast<size_t>(i)]} + (one_plus && !in_use ? 1 : 0);
      squares += used * used;
    }
    p.scale = std::sqrt(squares / static_cast<double>(size));
    // What a gain multiplies is of size 1: steps that follow small gains are too short (doc/measurements.md).
    if (is_gain(role)) p.scale = std::max(p.scale, 1.0);
    p.adam = Adam(static_cast<size_t>(size));
  };
  for (uint32_t l = 0; l < coded_.num_layers(); ++l) {
    const LayerGraph& graph = coded_.layer(l);
    const Eigen::Index at = eigen_index(all.size());
    vectors_.layer_at.push_back(at);
    LayerWeights<float> loaded;
    if (kept_.empty()) {
      NWC_ASSIGN_OR_RETURN(loaded, coded_.load_layer(l));
    }
    const RowVector<float>& values = kept_.empty() ? loaded.vectors : kept_[l].vectors;
    all.insert(all.end(), values.data(), values.data() + values.size());
    for (size_t v = 0; v < graph.vectors().size(); ++v) {
      const LayerVector& vector = graph.vectors()[v];
      add(coded_.vector_tensor(l, v), vector.role, at + vector.at, vector.size, vector.one_plus, false);
    }
  }
  vectors_.gain_at = eigen_index(all.size());
  all.insert(all.end(), head_.gain.data(), head_.gain.data() + head_.gain.size());
  vectors_.bias_at = eigen_index(all.size());
  all.insert(all.end(), head_.norm_bias.data(), head_.norm_bias.data() + head_.norm_bias.size());
  for (const VectorPlace& place : layout.vectors) {
    if (place.at == kNoVector) continue;
    if (place.at == layout.final_norm_at && head_.gain.size() != 0)
      add(place.tensor, place.role, vectors_.gain_at, head_.gain.size(), place.one_plus, true);
    if (place.at == layout.final_norm_bias_at && head_.norm_bias.size() != 0)
      add(place.tensor, place.role, vectors_.bias_at, head_.norm_bias.size(), place.one_plus, true);
  }
  // What several layers share cannot follow each of them.
  std::erase_if(state_.tuned, [&](const TunedVector& p) { return uses[p.tensor] > 1; });
  state_.values = ConstRowMap<float>(all.data(), eigen_index(all.size()));
  return {};
}

Status Distillation::prepare() {
  if (choices_.files != nullptr) {  // before the heads are there, each of which is as large as the largest tensor
    NWC_ASSIGN_OR_RETURN(hash_, distill_hash(wanted_.source(), coded_.source(), replaceable_, choices_));
  }
  {
    NWC_ASSIGN_OR_RETURN(FeatureStream stream, FeatureStream::open(wanted_, choices_.tokens));
    embedded_.resize(eigen_index(choices_.tokens.size()), 0);  // how many there are, for progress
    NWC_TRY(step(0));
    for (uint32_t l = 0; l < wanted_.num_layers(); ++l) {
      NWC_TRY(stream.advance(runner_));
      NWC_TRY(step(choices_.tokens.size() / wanted_.num_layers()));
    }
    wanted_states_ = stream.outputs();
  }
  {
    NWC_ASSIGN_OR_RETURN(const FeatureStream stream, FeatureStream::open(coded_, choices_.tokens));
    embedded_ = stream.outputs();
  }
  NWC_ASSIGN_OR_RETURN(wanted_head_, wanted_.load_head());
  NWC_ASSIGN_OR_RETURN(head_, coded_.load_head());
  TuningSequences split = split_sequences(cut_sequences(choices_.tokens.size(), coded_.context()), choices_.validation);
  training_ = std::move(split.training);
  judging_ = std::move(split.judging);
  NWC_TRY(keep_layers());
  return find_parameters();
}

RowMatrix<float> Distillation::gather(const RowMatrix<float>& of_all, std::span<const Sequence> sequences) const {
  RowMatrix<float> out(eigen_index(tokens_of(sequences)), of_all.cols());
  Eigen::Index at = 0;
  for (const Sequence& s : sequences) {
    out.middleRows(at, s.length) = of_all.middleRows(s.begin, s.length);
    at += s.length;
  }
  return out;
}

Result<double> Distillation::judge(const RowVector<float>& vectors) {
  RowMatrix<float> states = gather(embedded_, judging_);
  std::vector<uint32_t> lengths;
  for (const Sequence& s : judging_) lengths.push_back(s.length);
  for (uint32_t l = 0; l < coded_.num_layers(); ++l) {
    NWC_ASSIGN_OR_RETURN(const LayerWeights<float>* w, weights(l, vectors));
    forward_layer(coded_.layer(l), *w, lengths, &states, runner_);
  }
  NWC_ASSIGN_OR_RETURN(const double sum, head_divergence(wanted_head_, gather(wanted_states_, judging_), head_,
                                                         norm(vectors), states, runner_, nullptr));
  NWC_TRY(step(static_cast<uint64_t>(states.rows())));
  return sum / static_cast<double>(states.rows());
}

Status Distillation::update(std::span<const Sequence> batch, double rate) {
  std::vector<uint32_t> lengths;
  std::vector<Eigen::Index> begin;
  Eigen::Index tokens = 0;
  for (const Sequence& s : batch) {
    lengths.push_back(s.length);
    begin.push_back(tokens);
    tokens += s.length;
  }
  std::vector<RowMatrix<float>> states{gather(embedded_, batch)};  // in front of each layer
  for (uint32_t l = 0; l < coded_.num_layers(); ++l) {
    NWC_ASSIGN_OR_RETURN(const LayerWeights<float>* w, weights(l, state_.values));
    states.push_back(states.back());
    forward_layer(coded_.layer(l), *w, lengths, &states.back(), runner_);
  }
  RowVector<float> gradient = RowVector<float>::Zero(state_.values.size());
  HeadGradient at_head;
  NWC_TRY(head_divergence(wanted_head_, gather(wanted_states_, batch), head_, norm(state_.values), states.back(),
                          runner_, &at_head)
              .status());
  gradient.segment(vectors_.gain_at, at_head.gain.size()) = at_head.gain;
  gradient.segment(vectors_.bias_at, at_head.bias.size()) = at_head.bias;
  RowMatrix<float> d_states = std::move(at_head.states);
  for (uint32_t l = coded_.num_layers(); l-- > 0;) {
    states.pop_back();
    NWC_ASSIGN_OR_RETURN(const LayerWeights<float>* w, weights(l, state_.values));
    const LayerGraph& graph = coded_.layer(l);
    std::vector<LayerWeights<float>> gradients(batch.size());
    parallel_for(runner_, static_cast<uint32_t>(batch.size()), [&](uint32_t i, uint32_t worker) {
      gradients[i].matrices.resize(graph.matrices().size());  // empty: not wanted
      gradients[i].vectors.setZero(graph.vector_elements());
      inputs_[worker] = states.back().middleRows(begin[i], lengths[i]);
      const RowMatrix<float> dy = d_states.middleRows(begin[i], lengths[i]);
      RowMatrix<float> dx;
      passes_[worker].forward(graph, *w, inputs_[worker], std::span(&lengths[i], 1));
      passes_[worker].backward(graph, *w, dy, &dx, &gradients[i]);
      d_states.middleRows(begin[i], lengths[i]) = dx;
    });
    for (const LayerWeights<float>& g : gradients)
      gradient.segment(vectors_.layer_at[l], graph.vector_elements()) += g.vectors;
  }
  for (TunedVector& p : state_.tuned) {
    const auto size = static_cast<size_t>(p.size);
    p.adam.step({state_.values.data() + p.at, size}, {gradient.data() + p.at, size}, rate * p.scale, 0);
  }
  return step(3 * static_cast<uint64_t>(tokens));
}

/// What the file will hold of these vectors.
RowVector<float> Distillation::as_stored(const RowVector<float>& vectors) const {
  RowVector<float> out = vectors;
  for (const TunedVector& p : state_.tuned) {
    const Dtype dtype = wanted_.source().tensors()[p.tensor].dtype;
    for (Eigen::Index i = p.at; i < p.at + p.size; ++i) out[i] = rounded_to(dtype, out[i] - p.offset) + p.offset;
  }
  return out;
}

/// From the start, or from where an interrupted run was.
Status Distillation::begin() {
  state_.best.setZero(state_.values.size());
  if (choices_.files != nullptr && take_state(hash_, &state_, choices_.files, log_)) {
    log_.log(LogLevel::kInfo,
             "fine-tuning norms: " + std::to_string(state_.updates) + " updates are taken from an earlier run");
    return step(tokens_of(judging_));
  }
  NWC_ASSIGN_OR_RETURN(state_.before, judge(state_.values));
  state_.after = state_.before;
  return {};
}

void Distillation::keep() {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - kept_at_;
  if (choices_.files == nullptr || passed.count() < choices_.keep_seconds) return;
  keep_state(hash_, &state_, choices_.files, log_);
  kept_at_ = std::chrono::steady_clock::now();
}

Result<DistillResult> Distillation::run() {
  NWC_TRY(prepare());
  DistillResult result;
  if (state_.tuned.empty()) return result;
  NWC_TRY(begin());
  std::vector<Sequence> order = training_;
  uint64_t updates = 0, number = 0;
  for (size_t first = 0; first < order.size(); ++updates) first = batch_end(order, first, choices_.batch_tokens);
  updates *= choices_.epochs;
  const double rate = choices_.learning_rate * std::min(1.0, std::sqrt(kLayersOfFullSteps / coded_.num_layers()));
  for (uint32_t e = 1; e <= choices_.epochs; ++e) {
    shuffle_sequences(choices_.seed, kOrderStream, e, &order);
    for (size_t first = 0; first < order.size(); ++number) {
      const size_t last = batch_end(order, first, choices_.batch_tokens);
      const std::span<const Sequence> batch(order.data() + first, last - first);
      first = last;
      if (number < state_.updates) {  // by an earlier run
        NWC_TRY(step(3 * tokens_of(batch)));
        continue;
      }
      NWC_TRY(update(batch, cosine_learning_rate(number, updates, updates / 20, rate, rate / 10)));
      ++state_.updates;
      keep();
    }
    if (e <= state_.epochs) {
      NWC_TRY(step(tokens_of(judging_)));
      continue;
    }
    const RowVector<float> stored = as_stored(state_.values);
    NWC_ASSIGN_OR_RETURN(const double now, judge(stored));
    state_.epochs = e;
    if (now < state_.after) {
      state_.after = now;
      state_.best_epoch = e;
      state_.best = stored;
    }
    keep();
  }
  result.before = state_.before;
  result.after = state_.after;
  result.best_epoch = state_.best_epoch;
  if (result.best_epoch == 0) return result;
  for (const TunedVector& p : state_.tuned) {
    std::vector<float>& values = result.values[p.tensor];
    for (Eigen::Index i = p.at; i < p.at + p.size; ++i) values.push_back(state_.best[i] - p.offset);
  }
  return result;
}

}  // namespace

Result<DistillResult> distill_norms(const ModelSource& source, const ModelSource& coded,
                                    const std::vector<bool>& replaceable, const DistillChoices& choices, Runner& runner,
                                    const Progress& progress, const Logger& log) {
  if (!source.model()) return unsupported("tuning norms needs a model with a description (config.json or GGUF)");
  if (source.model()->is_encoder())
    return unsupported("norms are tuned on predictions, which an encoder does not make");
  if (choices.tokens.empty()) return invalid_argument("tuning norms needs tokens");
  NWC_ASSIGN_OR_RETURN(const ModelGraph wanted, ModelGraph::open(source, choices.context));
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(coded, choices.context));
  return Distillation(wanted, graph, replaceable, choices, runner, progress, log).run();
}

}  // namespace nwc
