#include "trainer/recover/recovery.h"

#include <cstdio>
#include <map>

#include "trainer/data/content_hash.h"
#include "trainer/data/stored_float.h"
#include "trainer/llm/feature_stream.h"

namespace nwc {
namespace {

/// Part of the hash: raise it when the same settings give other weights.
constexpr uint64_t kRecoveryVersion = 1;

/// A source some of whose tensors were replaced: by what is to be coded in f32, what stays raw in its own dtype.
class TunedModel : public ModelSource {
 public:
  explicit TunedModel(const ModelSource& source) : source_(source), tensors_(source.tensors()) {}
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::optional<ModelRecord>& model() const override { return source_.model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return source_.tokenizer(); }
  uint64_t stored_bytes() const override { return source_.stored_bytes(); }
  const SourceNotes& notes() const override { return source_.notes(); }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    const auto at = tuned_.find(tensor);
    if (at == tuned_.end()) return source_.read_raw(tensor, out);
    for (size_t i = 0; i < at->second.size(); ++i) store_float(tensors_[tensor].dtype, at->second[i], i, out);
    return {};
  }

  void replace_coded(size_t tensor, std::span<const float> values) {
    tuned_[tensor].assign(values.begin(), values.end());
    tensors_[tensor].dtype = Dtype::kF32;
  }
  /// *values is rounded to what the file will hold: with eight bits, to what the source has.
  Status replace_raw(size_t tensor, std::span<float> values) {
    if (!stores_floats(tensors_[tensor].dtype)) {
      NWC_ASSIGN_OR_RETURN(const std::vector<float> own, source_.read_f32(tensor));
      std::copy(own.begin(), own.end(), values.begin());
      return {};
    }
    for (float& v : values) v = rounded_to(tensors_[tensor].dtype, v);
    tuned_[tensor].assign(values.begin(), values.end());
    return {};
  }

 private:
  const ModelSource& source_;
  std::vector<SourceTensor> tensors_;
  std::map<size_t, std::vector<float>> tuned_;
};

/// Everything that decides on the tuned weights. The steps and the codec themselves, not the choices that led to them.
Result<std::string> recovery_hash(const ModelSource& source, const Calibration* calibration, const RateModel& rate,
                                  const FittedCodec& fitted, double log_step, const RecoveryChoices& choices) {
  ContentHash hash;
  hash.add(kRecoveryVersion);
  // The calibration's hash covers the source already, which need not be read once more then.
  if (calibration != nullptr) {
    hash.add(calibration->hash());
  } else {
    NWC_TRY(hash.add(source));
  }

  const RecoveryOptions& o = choices.options;
  for (const uint64_t v : {uint64_t{choices.drifted_inputs}, uint64_t{o.epochs}, uint64_t{o.batch_tokens},
                           uint64_t{o.tune_norms}, o.seed, uint64_t{choices.context}, uint64_t{choices.tokens.size()}})
    hash.add(v);
  hash.add(o.learning_rate);
  hash.add(o.validation);
  hash.add({reinterpret_cast<const uint8_t*>(choices.tokens.data()), choices.tokens.size() * sizeof(uint32_t)});

  const CodingChoices& c = rate.choices();
  hash.add(c.rdo_strength);
  hash.add(c.damping);  // the other one is in the steps
  hash.add(uint64_t{c.feedback});
  hash.add(static_cast<uint64_t>(c.allocation));
  hash.add(Bytes(serialize(fitted.codec.record)));
  ByteWriter analysis;
  write_network(&analysis, fitted.codec.analysis, false);
  hash.add(Bytes(analysis.bytes()));
  const auto add_scales = [&](const ScaleCodes& scales) {
    hash.add(double{scales.base});
    hash.add(uint64_t{scales.code.size()});
    hash.add(Bytes(scales.code));
  };
  for (const SurveyedTensor& t : rate.tensors()) {
    const TensorSteps steps = rate.steps(t, log_step, fitted);
    for (const uint64_t v : {uint64_t{t.source}, uint64_t{t.tile_rows}, uint64_t{steps.row_class.size()}}) hash.add(v);
    add_scales(steps.scales.column);
    add_scales(steps.scales.row);
    hash.add(Bytes(steps.level));
    hash.add(Bytes(steps.row_class));
  }
  return hash.hex();
}

/// What has been recovered of the model, in epochs.
struct EpochProgress {
  const Progress& whole;
  uint64_t before = 0, total = 0;

  Progress callback() {
    return {[](void* user, uint64_t done, uint64_t) {
              const auto* self = static_cast<const EpochProgress*>(user);
              return self->whole.report(self->before + done, self->total);
            },
            this};
  }
};

/// The matrices of one product are coded together, product after product.
constexpr size_t kStages = kNumLinears;

class Recovery {
 public:
  Recovery(const ModelSource& source, const ModelGraph& graph, RateModel* rate, const FittedCodec& fitted,
           double log_step, const RecoveryChoices& choices, std::string hash, Runner& runner, const Progress& progress,
           const Logger& log)
      : graph_(graph),
        rate_(*rate),
        fitted_(fitted),
        costs_(fitted.codec.record),
        log_step_(log_step),
        choices_(choices),
        hash_(std::move(hash)),
        runner_(runner),
        progress_(progress),
        log_(log),
        tuned_(std::make_unique<TunedModel>(source)) {}

  Result<std::unique_ptr<ModelSource>> run() {
    NWC_ASSIGN_OR_RETURN(FeatureStream stream, FeatureStream::open(graph_, choices_.tokens));
    NWC_TRY(embed(stream.lengths()));
    const uint32_t layers = graph_.num_layers();
    for (uint32_t layer = 0; layer < layers; ++layer) {
      const uint64_t epochs = kStages * choices_.options.epochs;
      if (!progress_.report(layer * epochs, layers * epochs)) return Status(StatusCode::kCancelled, "");
      NWC_TRY(stream.advance(runner_));
      NWC_TRY(recover(layer, stream).with_context("block " + std::to_string(layer)));
    }
    say_taken();
    return std::unique_ptr<ModelSource>(std::move(tuned_));
  }

 private:
  /// The features that enter block 0 of the coded model.
  Status embed(std::span<const uint32_t> lengths) {
    const ModelLayout& layout = graph_.layout();
    NWC_ASSIGN_OR_RETURN(RowMatrix<float> table, graph_.load_embedding());
    if (rate_.find(layout.embedding) != nullptr) NWC_TRY(code(layout.embedding, values_of(&table)));
    NWC_ASSIGN_OR_RETURN(RowMatrix<float> positions, graph_.load_positions());
    if (graph_.has_positions() && rate_.find(layout.positions) != nullptr)
      NWC_TRY(code(layout.positions, values_of(&positions)));
    embed_tokens(graph_.model().ends, table, positions, choices_.tokens, lengths, &drifted_);
    return {};
  }
  static std::span<float> values_of(RowMatrix<float>* w) { return {w->data(), static_cast<size_t>(w->size())}; }

  /// *w becomes what the decoder returns.
  Status code(size_t index, std::span<float> w) {
    const SurveyedTensor* t = rate_.find(index);
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

  /// Puts *w into the result; then it becomes what is read back from the file.
  Status settle(size_t index, std::span<float> w) {
    if (rate_.find(index) == nullptr) return tuned_->replace_raw(index, w);
    tuned_->replace_coded(index, w);
    return code(index, w);
  }
  Status settle_matrix(uint32_t layer, size_t m, LayerWeights<float>* weights) {
    return settle(graph_.matrix_tensor(layer, m), values_of(&weights->matrices[m]));
  }

  void say_taken() {
    if (taken_ != said_taken_)
      log_.log(LogLevel::kInfo, "recovery: " + std::to_string(taken_) + " of " + std::to_string(graph_.num_layers()) +
                                    " blocks are taken from an earlier run");
    said_taken_ = taken_;
  }

  Status recover(uint32_t layer, const FeatureStream& stream) {
    const LayerGraph& graph = graph_.layer(layer);
    LayerWeights<float> weights;
    if (choices_.files != nullptr && choices_.files->take(hash_, layer, graph_, &weights, log_)) {
      ++taken_;
      for (size_t m = 0; m < weights.matrices.size(); ++m) NWC_TRY(settle_matrix(layer, m, &weights));
    } else {
      say_taken();
      NWC_TRY(tune(layer, stream, &weights));
    }
    for (size_t v = 0; v < graph.vectors().size(); ++v) {
      const LayerVector& vector = graph.vectors()[v];
      NWC_TRY(settle(graph_.vector_tensor(layer, v),
                     {weights.vectors.data() + vector.at, static_cast<size_t>(vector.size)}));
    }
    if (choices_.drifted_inputs) forward_layer(graph, weights, stream.lengths(), &drifted_, runner_);
    return {};
  }

  /// *weights: as they are read back, but for the norms.
  Status tune(uint32_t layer, const FeatureStream& stream, LayerWeights<float>* weights) {
    const LayerGraph& graph = graph_.layer(layer);
    *weights = stream.weights();
    LayerWeights<float> wanted;  // before coding
    wanted.matrices.resize(weights->matrices.size());
    FrozenMatrices frozen(weights->matrices.size(), false);
    const RecoveryData data{.inputs = choices_.drifted_inputs ? &drifted_ : &stream.inputs(),
                            .targets = &stream.outputs(),
                            .lengths = stream.lengths(),
                            .token_weight = {},
                            .metric = nullptr};
    const uint64_t epochs = choices_.options.epochs;
    double before = 0, after = 0;
    for (size_t stage = 0; stage < kStages; ++stage) {
      for (size_t m = 0; m < frozen.size(); ++m) {
        if (graph.matrices()[m].linear != static_cast<Linear>(stage)) continue;
        wanted.matrices[m] = weights->matrices[m];
        NWC_TRY(settle_matrix(layer, m, weights));
        frozen[m] = true;
      }
      RecoveryOptions options = choices_.options;
      options.seed += 4 * layer + stage;
      EpochProgress progress{.whole = progress_,
                             .before = (kStages * layer + stage) * epochs,
                             .total = kStages * epochs * graph_.num_layers()};
      NWC_ASSIGN_OR_RETURN(const RecoveryResult result,
                           recover_block(graph, weights, frozen, data, options, runner_, progress.callback()));
      if (stage == 0) before = result.before;
      after = result.after;
    }
    if (choices_.files != nullptr) {
      wanted.vectors = weights->vectors;
      choices_.files->keep(hash_, layer, graph_, std::move(wanted), log_);
    }
    char text[128];
    std::snprintf(text, sizeof text,
                  "block %u: error of the output %.5f with the first matrices coded, %.5f at the end", layer, before,
                  after);
    log_.log(LogLevel::kInfo, text);
    return {};
  }

  const ModelGraph& graph_;
  RateModel& rate_;
  const FittedCodec& fitted_;
  const TableCosts costs_;
  const double log_step_;
  const RecoveryChoices& choices_;
  const std::string hash_;  ///< of choices_.files; empty without
  Runner& runner_;
  const Progress& progress_;
  const Logger& log_;
  std::unique_ptr<TunedModel> tuned_;
  RowMatrix<float> drifted_;  ///< [tokens][hidden]: what enters the next block of the coded model
  uint32_t taken_ = 0, said_taken_ = 0;
};

}  // namespace

Result<std::unique_ptr<ModelSource>> recover_model(const ModelSource& source, const Calibration* calibration,
                                                   RateModel* rate, const FittedCodec& fitted, double log_step,
                                                   const RecoveryChoices& choices, Runner& runner,
                                                   const Progress& progress, const Logger& log) {
  if (!source.model()) return unsupported("recovery needs a model with a description (config.json or GGUF)");
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, choices.context));
  std::string hash;
  if (choices.files != nullptr) {
    NWC_ASSIGN_OR_RETURN(hash, recovery_hash(source, calibration, *rate, fitted, log_step, choices));
  }
  Result<std::unique_ptr<ModelSource>> out =
      Recovery(source, graph, rate, fitted, log_step, choices, std::move(hash), runner, progress, log).run();
  if (out.ok() || out.status().code() != StatusCode::kCancelled) return out;
  return Status(StatusCode::kCancelled,
                "cancelled while recovering" +
                    (choices.files != nullptr ? "; the blocks that are done are kept in " + choices.files->folder()
                                              : std::string()));
}

}  // namespace nwc
