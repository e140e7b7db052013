#include "trainer/eval/evaluate.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "trainer/eval/bootstrap.h"
#include "trainer/eval/quantile.h"

namespace nwc {
namespace {

constexpr uint32_t kDefaultContext = 2048;
/// Tokens whose logits are in memory together, and the most floats they may take.
constexpr uint32_t kChunkTokens = 128;
constexpr uint64_t kChunkFloats = 1u << 23;

struct TokenScore {
  double nll = 0;
  double reference_nll = 0;
  double kld = 0;
  bool same_top = false;
};

/// One row of logits of each model; `reference` may be empty.
TokenScore score_token(std::span<const float> logits, std::span<const float> reference, uint32_t target) {
  TokenScore score;
  const double norm = log_sum_exp(logits);
  score.nll = norm - logits[target];
  if (reference.empty()) return score;
  // KL(p || q) = sum p (log p - log q); with p = exp(a - A), q = exp(b - B) that is sum p (a - b) - (A - B).
  const float top = *std::max_element(reference.begin(), reference.end());
  double total = 0, weighted = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double e = std::exp(double{reference[i]} - top);
    total += e;
    weighted += e * (double{reference[i]} - logits[i]);
  }
  const double reference_norm = top + std::log(total);
  score.reference_nll = reference_norm - reference[target];
  // Rounding can leave a divergence of nothing slightly negative.
  score.kld = std::max(0.0, weighted / total - (reference_norm - norm));
  score.same_top = std::max_element(logits.begin(), logits.end()) - logits.begin() ==
                   std::max_element(reference.begin(), reference.end()) - reference.begin();
  return score;
}

Status check(Session& model, Session* reference, uint32_t context, size_t num_tokens) {
  if (num_tokens < 2) return invalid_argument("evaluation needs at least two tokens of text");
  for (Session* s : {&model, reference}) {
    if (s != nullptr && context > s->context()) {
      return invalid_argument("windows of " + std::to_string(context) + " tokens do not fit a session of " +
                              std::to_string(s->context()));
    }
  }
  if (context < 2) return invalid_argument("a window needs at least two tokens");
  if (reference != nullptr && reference->vocab_size() != model.vocab_size()) {
    return invalid_argument("the models' vocabularies differ: " + std::to_string(model.vocab_size()) + " and " +
                            std::to_string(reference->vocab_size()) + " tokens");
  }
  return {};
}

/// Length of the text in which `predicted` tokens are predicted.
size_t tokens_needed(uint64_t predicted, uint32_t context) {
  const uint64_t per_window = std::max(context, 2u) - 1;  // all but the first; check() refuses shorter windows
  const uint64_t rest = predicted % per_window;
  if (predicted / per_window >= SIZE_MAX / context - 1) return SIZE_MAX;
  return static_cast<size_t>(predicted / per_window * context + (rest == 0 ? 0 : rest + 1));
}

Evaluation summarize(const std::vector<TokenScore>& scores, std::span<const uint64_t> windows, bool has_reference) {
  Evaluation e;
  e.windows = windows.size();
  e.tokens = scores.size();
  e.has_reference = has_reference;
  const std::vector<uint64_t> blocks = bootstrap_blocks(windows);
  std::vector<double> values(scores.size());
  const auto mean = [&](const auto& value) {
    std::transform(scores.begin(), scores.end(), values.begin(), value);
    return bootstrap_mean(values, blocks);
  };
  const MeanWithError nll = mean([](const TokenScore& s) { return s.nll; });
  e.nll = nll.mean;
  e.nll_se = nll.standard_error;
  e.perplexity = std::exp(e.nll);
  e.perplexity_se = e.perplexity * e.nll_se;
  if (!has_reference) return e;
  e.reference_nll = mean([](const TokenScore& s) { return s.reference_nll; }).mean;
  e.reference_perplexity = std::exp(e.reference_nll);
  const MeanWithError difference = mean([](const TokenScore& s) { return s.nll - s.reference_nll; });
  e.nll_difference = difference.mean;
  e.nll_difference_se = difference.standard_error;
  const MeanWithError top = mean([](const TokenScore& s) { return s.same_top ? 1.0 : 0.0; });
  e.same_top = top.mean;
  e.same_top_se = top.standard_error;
  const MeanWithError kld = mean([](const TokenScore& s) { return s.kld; });
  e.kld_mean = kld.mean;
  e.kld_se = kld.standard_error;
  e.kld_low = kld.low;
  e.kld_high = kld.high;
  std::sort(values.begin(), values.end());
  e.kld_p90 = quantile(values, 0.90);
  e.kld_p99 = quantile(values, 0.99);
  e.kld_max = values.back();
  return e;
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float v : logits) total += std::exp(double{v} - largest);
  return largest + std::log(total);
}

Result<Evaluation> evaluate(Session& model, Session* reference, Runner& runner, std::span<const uint32_t> tokens,
                            const EvaluationParams& params) {
  uint32_t context = params.context;
  if (context == 0) {
    context = std::min({kDefaultContext, model.context(), model.model().max_positions});
    if (reference != nullptr) context = std::min({context, reference->context(), reference->model().max_positions});
  }
  NWC_TRY(check(model, reference, context, tokens.size()));
  if (params.max_tokens != 0) tokens = tokens.first(std::min(tokens.size(), tokens_needed(params.max_tokens, context)));

  const uint32_t vocab = model.vocab_size();
  const uint32_t batch = reference == nullptr ? model.batch() : std::min(model.batch(), reference->batch());
  const uint32_t chunk =
      static_cast<uint32_t>(std::clamp<uint64_t>(kChunkFloats / vocab, 1, std::min(kChunkTokens, batch)));
  std::vector<float> logits(size_t{chunk} * vocab);
  std::vector<float> reference_logits(reference == nullptr ? 0 : logits.size());
  std::vector<TokenScore> scores;
  std::vector<uint64_t> windows;  // predicted tokens of each
  const auto row = [vocab](std::span<const float> all, uint32_t t) {
    return all.empty() ? all : all.subspan(size_t{t} * vocab, vocab);
  };

  for (size_t begin = 0; begin + 2 <= tokens.size(); begin += context) {
    const std::span<const uint32_t> window = tokens.subspan(begin, std::min<size_t>(context, tokens.size() - begin));
    model.reset();
    if (reference != nullptr) reference->reset();
    const size_t inputs = window.size() - 1;  // the last token predicts nothing
    windows.push_back(inputs);
    for (size_t at = 0; at < inputs; at += batch) {
      if (!params.progress.report(begin + at, tokens.size())) {
        return Status(StatusCode::kCancelled, "the evaluation was cancelled");
      }
      const uint32_t count = static_cast<uint32_t>(std::min<size_t>(batch, inputs - at));
      NWC_TRY(model.eval(window.subspan(at, count), LogitsWanted::kNone, {}));
      if (reference != nullptr) NWC_TRY(reference->eval(window.subspan(at, count), LogitsWanted::kNone, {}));
      for (uint32_t first = 0; first < count; first += chunk) {
        const uint32_t rows = std::min(chunk, count - first);
        NWC_TRY(model.logits(first, rows, logits));
        if (reference != nullptr) NWC_TRY(reference->logits(first, rows, reference_logits));
        const size_t base = scores.size();
        scores.resize(base + rows);
        parallel_for(runner, rows, [&](uint32_t t, uint32_t) {
          scores[base + t] = score_token(row(logits, t), row(reference_logits, t), window[at + first + t + 1]);
        });
        for (size_t i = base; i < scores.size(); ++i) {
          const TokenScore& s = scores[i];
          if (!std::isfinite(s.nll) || !std::isfinite(s.reference_nll) || !std::isfinite(s.kld)) {
            return corrupt("the model's logits after token " + std::to_string(begin + at + first + i - base) +
                           " of the text are not finite");
          }
        }
      }
    }
  }
  params.progress.report(tokens.size(), tokens.size());
  Evaluation result = summarize(scores, windows, reference != nullptr);
  result.context = context;
  return result;
}

}  // namespace nwc
