#include "trainer/recover/recovery.h"

#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <optional>

#include "trainer/data/content_hash.h"
#include "trainer/data/stored_float.h"
#include "trainer/llm/feature_stream.h"

namespace nwc {
namespace {

/// Part of the hash: raise it when the same settings give other weights.
constexpr uint64_t kRecoveryVersion = 2;

/// A source some of whose tensors were replaced by others of their own dtype.
class TunedModel : public ModelSource {
 public:
  explicit TunedModel(const ModelSource& source) : source_(source) {}
  const std::vector<SourceTensor>& tensors() const override { return source_.tensors(); }
  const std::optional<ModelRecord>& model() const override { return source_.model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return source_.tokenizer(); }
  uint64_t stored_bytes() const override { return source_.stored_bytes(); }
  const SourceNotes& notes() const override { return source_.notes(); }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    const auto at = tuned_.find(tensor);
    if (at == tuned_.end()) return source_.read_raw(tensor, out);
    for (size_t i = 0; i < at->second.size(); ++i) store_float(tensors()[tensor].dtype, at->second[i], i, out);
    return {};
  }

  /// *values is rounded to what the file will hold: with eight bits, to what the source has.
  Status replace_raw(size_t tensor, std::span<float> values) {
    const Dtype dtype = tensors()[tensor].dtype;
    if (!stores_floats(dtype)) {
      NWC_ASSIGN_OR_RETURN(const std::vector<float> own, source_.read_f32(tensor));
      std::copy(own.begin(), own.end(), values.begin());
      return {};
    }
    for (float& v : values) v = rounded_to(dtype, v);
    tuned_[tensor].assign(values.begin(), values.end());
    return {};
  }

 private:
  const ModelSource& source_;
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

  const DriftOptions& d = choices.drift;
  hash.add(uint64_t{d.enabled});
  for (const double v : {d.damping, d.share, d.validation}) hash.add(v);
  const RecoveryOptions& o = choices.options;
  for (const uint64_t v :
       {uint64_t{choices.tune}, uint64_t{choices.drifted_inputs}, uint64_t{o.epochs}, uint64_t{o.batch_tokens},
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
        tables_(fitted.codec.record),
        costs_(fitted.codec.record),
        log_step_(log_step),
        choices_(choices),
        hash_(std::move(hash)),
        runner_(runner),
        progress_(progress),
        log_(log),
        tuned_(std::make_unique<TunedModel>(source)) {}

  Result<RecoveredModel> run() {
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
    return RecoveredModel{std::move(tuned_), std::move(parts_)};
  }

 private:
  /// The features that enter block 0 of the coded model.
  Status embed(std::span<const uint32_t> lengths) {
    const ModelLayout& layout = graph_.layout();
    NWC_ASSIGN_OR_RETURN(RowMatrix<float> table, graph_.load_embedding());
    NWC_TRY(code_end(layout.embedding, values_of(&table)));
    NWC_ASSIGN_OR_RETURN(RowMatrix<float> positions, graph_.load_positions());
    if (graph_.has_positions()) NWC_TRY(code_end(layout.positions, values_of(&positions)));
    NWC_ASSIGN_OR_RETURN(drifted_, front_states(graph_, table, positions, choices_.tokens, lengths));
    return {};
  }
  static std::span<float> values_of(RowMatrix<float>* w) { return {w->data(), static_cast<size_t>(w->size())}; }

  /// *w becomes what the decoder returns. factors: of error feedback, or null
  Result<CodedPart> code(const SurveyedTensor& t, const FeedbackFactors* factors, Runner& runner, std::span<float> w) {
    const TensorSteps steps = rate_.steps(t, log_step_, fitted_);
    const std::vector<float> wanted(w.begin(), w.end());
    CodedPart out;
    out.quantized = quantize_tensor({.codec = fitted_.codec,
                                     .costs = costs_,
                                     .rdo_strength = rate_.choices().rdo_strength,
                                     .w = wanted,
                                     .m = t.m,
                                     .n = t.n,
                                     .steps = steps,
                                     .feedback = factors,
                                     .row_importance = t.row_importance,
                                     .tile_rows = t.tile_rows,
                                     .decoded = w},
                                    runner, &out.statistics, nullptr);
    NWC_ASSIGN_OR_RETURN(out.encoded, encode_tensor(tables_, out.quantized, runner));
    out.quantized.values = {};
    return out;
  }
  /// The same of what precedes the blocks, which the last pass codes once more.
  Status code_end(size_t index, std::span<float> w) {
    const SurveyedTensor* t = rate_.find(index);
    if (t == nullptr) return {};
    NWC_ASSIGN_OR_RETURN(const std::shared_ptr<const FeedbackFactors> factors, factors_of(*t));
    return code(*t, factors.get(), runner_, w).status();
  }
  Result<std::shared_ptr<const FeedbackFactors>> factors_of(const SurveyedTensor& t) {
    if (!rate_.choices().feedback) return std::shared_ptr<const FeedbackFactors>();
    return rate_.factors(t);
  }

  /// Puts these matrices of a block, or what the codec makes of them, into the result; then they become what is read
  /// back from the file. As many side by side as keep all threads busy.
  Status settle_matrices(uint32_t layer, std::span<const size_t> matrices, LayerWeights<float>* weights) {
    std::vector<size_t> coded;
    for (const size_t m : matrices) {
      const size_t index = graph_.matrix_tensor(layer, m);
      if (rate_.find(index) != nullptr) {
        coded.push_back(m);
      } else {
        NWC_TRY(tuned_->replace_raw(index, values_of(&weights->matrices[m])));
      }
    }
    const auto tensor = [&](size_t i) -> const SurveyedTensor& {
      return *rate_.find(graph_.matrix_tensor(layer, coded[i]));
    };
    const auto together = [&](size_t i) {
      return quantized_together(tensor(i), rate_.choices().feedback, runner_.num_workers());
    };
    for (size_t begin = 0, end = 0; begin < coded.size(); begin = end) {
      end = begin + 1;
      while (end < coded.size() && end - begin < together(begin) && together(end) > 1) ++end;
      std::vector<std::shared_ptr<const FeedbackFactors>> factors(end - begin);
      std::vector<std::optional<Result<CodedPart>>> parts(end - begin);
      for (size_t i = begin; i < end; ++i) {
        NWC_ASSIGN_OR_RETURN(factors[i - begin], factors_of(tensor(i)));
      }
      const auto code_one = [&](size_t i, Runner& runner) {
        parts[i] = code(tensor(begin + i), factors[i].get(), runner, values_of(&weights->matrices[coded[begin + i]]));
      };
      if (end - begin == 1) {
        code_one(0, runner_);
      } else {
        parallel_for(runner_, static_cast<uint32_t>(end - begin), [&](uint32_t i, uint32_t) {
          const std::unique_ptr<Runner> serial = make_thread_pool(1);
          code_one(i, *serial);
        });
      }
      for (size_t i = 0; i < parts.size(); ++i) {
        NWC_ASSIGN_OR_RETURN(parts_[graph_.matrix_tensor(layer, coded[begin + i])], std::move(*parts[i]));
      }
    }
    return {};
  }

  void say_strengths(uint32_t layer, const std::vector<double>& strengths) {
    std::string text = "block " + std::to_string(layer) + ": drift is corrected by";
    for (const double s : strengths) text += " " + std::to_string(std::lround(100 * s));
    log_.log(LogLevel::kDebug, text + " %");
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
      std::vector<size_t> all(weights.matrices.size());
      std::iota(all.begin(), all.end(), size_t{0});
      NWC_TRY(settle_matrices(layer, all, &weights));
    } else {
      say_taken();
      NWC_TRY(tune(layer, stream, &weights));
    }
    for (size_t v = 0; v < graph.vectors().size(); ++v) {
      const LayerVector& vector = graph.vectors()[v];
      NWC_TRY(tuned_->replace_raw(graph_.vector_tensor(layer, v),
                                  {weights.vectors.data() + vector.at, static_cast<size_t>(vector.size)}));
    }
    if (choices_.drifted_inputs || choices_.drift.enabled)
      forward_layer(graph, weights, stream.lengths(), &drifted_, runner_);
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
    DriftCorrection correction(graph, stream.lengths(), choices_.drift, runner_);
    for (size_t stage = 0; stage < kStages; ++stage) {
      if (choices_.drift.enabled)
        NWC_TRY(correction.correct(static_cast<Linear>(stage), stream.weights(), stream.inputs(), drifted_, weights));
      std::vector<size_t> matrices;
      for (size_t m = 0; m < frozen.size(); ++m) {
        if (graph.matrices()[m].linear != static_cast<Linear>(stage)) continue;
        wanted.matrices[m] = weights->matrices[m];
        matrices.push_back(m);
        frozen[m] = true;
      }
      NWC_TRY(settle_matrices(layer, matrices, weights));
      if (!choices_.tune) continue;
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
    if (choices_.drift.enabled) say_strengths(layer, correction.strengths());
    if (!choices_.tune) return {};
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
  const EncodeTables tables_;
  const TableCosts costs_;
  const double log_step_;
  const RecoveryChoices& choices_;
  const std::string hash_;  ///< of choices_.files; empty without
  Runner& runner_;
  const Progress& progress_;
  const Logger& log_;
  std::unique_ptr<TunedModel> tuned_;
  std::map<size_t, CodedPart> parts_;
  RowMatrix<float> drifted_;  ///< [tokens][hidden]: what enters the next block of the coded model
  uint32_t taken_ = 0, said_taken_ = 0;
};

}  // namespace

Result<RecoveredModel> recover_model(const ModelSource& source, const Calibration* calibration, RateModel* rate,
                                     const FittedCodec& fitted, double log_step, const RecoveryChoices& choices,
                                     Runner& runner, const Progress& progress, const Logger& log) {
  if (!source.model()) return unsupported("recovery needs a model with a description (config.json or GGUF)");
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, choices.context));
  std::string hash;
  if (choices.files != nullptr) {
    NWC_ASSIGN_OR_RETURN(hash, recovery_hash(source, calibration, *rate, fitted, log_step, choices));
  }
  Result<RecoveredModel> out =
      Recovery(source, graph, rate, fitted, log_step, choices, std::move(hash), runner, progress, log).run();
  if (out.ok() || out.status().code() != StatusCode::kCancelled) return out;
  return Status(StatusCode::kCancelled,
                "cancelled while recovering" +
                    (choices.files != nullptr ? "; the blocks that are done are kept in " + choices.files->folder()
                                              : std::string()));
}

}  // namespace nwc
