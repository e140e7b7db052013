#include "trainer/encode/recovery.h"

#include <cstdio>
#include <map>

#include "runtime/base/half.h"
#include "trainer/llm/feature_stream.h"

namespace nwc {
namespace {

float rounded_to(Dtype dtype, float v) {
  if (dtype == Dtype::kF16) return f16_to_f32(f32_to_f16(v));
  if (dtype == Dtype::kBf16) return bf16_to_f32(f32_to_bf16(v));
  return v;
}

/// A source some of whose tensors were replaced, by matrices in f32 or by vectors in their own dtype.
class TunedModel : public ModelSource {
 public:
  explicit TunedModel(const ModelSource& source) : source_(source), tensors_(source.tensors()) {}
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::optional<ModelRecord>& model() const override { return source_.model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return source_.tokenizer(); }
  uint64_t stored_bytes() const override { return source_.stored_bytes(); }
  const std::string& note() const override { return source_.note(); }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    const auto at = tuned_.find(tensor);
    if (at == tuned_.end()) return source_.read_raw(tensor, out);
    for (size_t i = 0; i < at->second.size(); ++i) {
      const float v = at->second[i];
      switch (tensors_[tensor].dtype) {
        case Dtype::kF16: store_le(out.data() + 2 * i, f32_to_f16(v)); break;
        case Dtype::kBf16: store_le(out.data() + 2 * i, f32_to_bf16(v)); break;
        default: store_le(out.data() + 4 * i, v);
      }
    }
    return {};
  }

  void replace_matrix(size_t tensor, std::span<const float> values) {
    tuned_[tensor].assign(values.begin(), values.end());
    tensors_[tensor].dtype = Dtype::kF32;
  }
  /// *values is rounded to what the file will hold.
  void replace_vector(size_t tensor, std::span<float> values) {
    for (float& v : values) v = rounded_to(tensors_[tensor].dtype, v);
    tuned_[tensor].assign(values.begin(), values.end());
  }

 private:
  const ModelSource& source_;
  std::vector<SourceTensor> tensors_;
  std::map<size_t, std::vector<float>> tuned_;
};

class Recovery {
 public:
  Recovery(const ModelSource& source, RateModel* rate, const FittedCodec& fitted, double log_step,
           const RecoveryChoices& choices, Runner& runner)
      : source_(source),
        rate_(*rate),
        fitted_(fitted),
        costs_(fitted.codec.record),
        log_step_(log_step),
        choices_(choices),
        runner_(runner),
        tuned_(std::make_unique<TunedModel>(source)) {}

  Result<std::unique_ptr<ModelSource>> run(const Progress& progress, const Logger& log) {
    NWC_ASSIGN_OR_RETURN(FeatureStream stream, FeatureStream::open(source_, choices_.tokens, choices_.context));
    NWC_TRY(embed());
    const uint32_t layers = source_.model()->num_layers;
    for (uint32_t layer = 0; layer < layers; ++layer) {
      if (!progress.report(layer, layers)) return Status(StatusCode::kCancelled, "cancelled while recovering");
      NWC_TRY(stream.advance(runner_));
      NWC_TRY(recover(layer, stream, log).with_context("block " + std::to_string(layer)));
    }
    return std::unique_ptr<ModelSource>(std::move(tuned_));
  }

 private:
  /// The features that enter block 0 of the coded model.
  Status embed() {
    const auto index = source_.find(kEmbeddingName);
    if (!index) return corrupt(std::string("tensor ") + kEmbeddingName + " is missing");
    NWC_ASSIGN_OR_RETURN(std::vector<float> table, source_.read_f32(*index));
    NWC_TRY(code(*index, table));
    const auto hidden = static_cast<size_t>(source_.model()->hidden_size);
    drifted_.resize(eigen_index(choices_.tokens.size()), eigen_index(hidden));
    for (size_t t = 0; t < choices_.tokens.size(); ++t)
      drifted_.row(eigen_index(t)) =
          ConstRowMap<float>(table.data() + choices_.tokens[t] * hidden, eigen_index(hidden));
    return {};
  }

  /// *w becomes what the decoder returns. A tensor that is not coded stays as it is.
  Status code(size_t index, std::span<float> w) {
    const SurveyedTensor* t = rate_.find(index);
    if (t == nullptr) return {};
    std::shared_ptr<const FeedbackFactors> factors;
    if (rate_.choices().feedback) {
      NWC_ASSIGN_OR_RETURN(factors, rate_.factors(*t));
    }
    const TensorSteps steps = rate_.steps(*t, log_step_, fitted_);
    const std::vector<float> wanted(w.begin(), w.end());
    quantize_tensor({.codec = fitted_.codec,
                     .costs = costs_,
                     .rdo_strength = rate_.choices().rdo_strength,
                     .w = wanted,
                     .m = t->m,
                     .n = t->n,
                     .steps = steps,
                     .feedback = factors.get(),
                     .row_importance = {},
                     .tile_rows = t->tile_rows,
                     .decoded = w},
                    runner_, nullptr, nullptr);
    return {};
  }

  Status recover(uint32_t layer, const FeatureStream& stream, const Logger& log) {
    static constexpr std::array<std::initializer_list<LayerMatrix>, 4> kStages = {
        {{kQ, kK, kV}, {kO}, {kGate, kUp}, {kDown}}};
    BlockWeights<float> weights = stream.weights();
    FrozenLayers frozen{};
    const RecoveryData data{.inputs = choices_.drifted_inputs ? &drifted_ : &stream.inputs(),
                            .targets = &stream.outputs(),
                            .lengths = stream.lengths(),
                            .token_weight = {},
                            .metric = nullptr};
    double before = 0, after = 0;
    for (size_t stage = 0; stage < kStages.size(); ++stage) {
      for (const LayerMatrix m : kStages[stage]) {
        RowMatrix<float>& w = weights.matrix[m];
        const std::span<float> values(w.data(), static_cast<size_t>(w.size()));
        const size_t index = *source_.find(linear_name(layer, m));
        tuned_->replace_matrix(index, values);
        NWC_TRY(code(index, values));
        frozen[m] = true;
      }
      RecoveryOptions options = choices_.options;
      options.seed += 4 * layer + stage;
      NWC_ASSIGN_OR_RETURN(const RecoveryResult result,
                           recover_block(stream.shape(), &weights, frozen, data, options, runner_));
      if (stage == 0) before = result.before;
      after = result.after;
    }
    for (const auto& [name, gain] : {std::pair{"input_layernorm", &weights.attention_norm},
                                     std::pair{"post_attention_layernorm", &weights.mlp_norm}}) {
      const std::string tensor = "model.layers." + std::to_string(layer) + "." + name + ".weight";
      tuned_->replace_vector(*source_.find(tensor), {gain->data(), static_cast<size_t>(gain->size())});
    }
    if (choices_.drifted_inputs) forward_block(stream.shape(), weights, stream.lengths(), &drifted_, runner_);
    char text[128];
    std::snprintf(text, sizeof text, "block %u: error of the output %.5f with q, k, v coded, %.5f at the end", layer,
                  before, after);
    log.log(LogLevel::kInfo, text);
    return {};
  }

  const ModelSource& source_;
  RateModel& rate_;
  const FittedCodec& fitted_;
  const TableCosts costs_;
  const double log_step_;
  const RecoveryChoices& choices_;
  Runner& runner_;
  std::unique_ptr<TunedModel> tuned_;
  RowMatrix<float> drifted_;  ///< [tokens][hidden]: what enters the next block of the coded model
};

}  // namespace

Result<std::unique_ptr<ModelSource>> recover_model(const ModelSource& source, RateModel* rate,
                                                   const FittedCodec& fitted, double log_step,
                                                   const RecoveryChoices& choices, Runner& runner,
                                                   const Progress& progress, const Logger& log) {
  if (!source.model()) return unsupported("recovery needs a model with a description (config.json or GGUF)");
  return Recovery(source, rate, fitted, log_step, choices, runner).run(progress, log);
}

}  // namespace nwc
