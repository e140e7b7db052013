// Measures the quality of a model on a text against a reference in the same run: perplexity, KL divergence, and how
// often both models find the same token likeliest.
#pragma once

#include <span>
#include <vector>

#include "runtime/engine/session.h"

namespace nwc {

struct EvaluationParams {
  uint32_t context = 0;     ///< tokens per window; 0: min(2048, what the model and the sessions allow)
  uint64_t max_tokens = 0;  ///< stop after that many predicted tokens; 0: use the whole text
  Progress progress;        ///< in tokens
};

/// Means over predicted tokens, and their standard errors by the block bootstrap (bootstrap.h): neighbouring tokens are
/// alike, so that errors of independent tokens would be too small.
struct Evaluation {
  uint32_t context = 0;
  uint64_t windows = 0;
  uint64_t tokens = 0;  ///< predicted: every token but the first of each window
  double nll = 0, nll_se = 0;
  double perplexity = 0, perplexity_se = 0;  ///< exp(nll), and its error to first order
  bool has_reference = false;
  double reference_nll = 0, reference_perplexity = 0;
  /// Difference of the mean log-likelihoods, model minus reference: much less noisy than either.
  double nll_difference = 0, nll_difference_se = 0;
  double kld_mean = 0, kld_se = 0;   ///< KL(reference || model) in nats
  double kld_low = 0, kld_high = 0;  ///< bounds of the mean's interval of 95 %
  double kld_p90 = 0, kld_p99 = 0, kld_max = 0;
  double same_top = 0, same_top_se = 0;  ///< share of tokens for which both models rank the same one first
};

/// Non-overlapping windows of `context` tokens, the last one shorter (dropped if a single token). Resets both sessions.
/// Memory beyond the sessions: logits of at most 128 tokens a model, and 40 bytes per predicted token. The result does
/// not depend on the number of threads.
/// errors: kInvalidArgument (fewer than two tokens, context too long for a session, vocabularies differ, a token out of
///         range), kCorrupt (logits that are not finite), kCancelled, the sessions' errors
Result<Evaluation> evaluate(Session& model, Session* reference, Runner& runner, std::span<const uint32_t> tokens,
                            const EvaluationParams& params);

/// log(sum(exp(logits))) in double.
double log_sum_exp(std::span<const float> logits);

}  // namespace nwc
