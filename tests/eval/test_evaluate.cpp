#include "tests/engine/model_fixture.h"
#include "trainer/eval/bootstrap.h"
#include "trainer/eval/evaluate.h"
#include "trainer/eval/quantile.h"

namespace nwc::test {
namespace {

/// Head of zeros: every token equally likely everywhere.
PlainModel uniform_model() {
  ModelRecord record = small_record();
  record.tied_embeddings = false;
  PlainModel model = random_model(record, 1);
  std::fill(model.tensors["lm_head.weight"].bytes.begin(), model.tensors["lm_head.weight"].bytes.end(), uint8_t{0});
  return model;
}

EvaluationParams windows_of(uint32_t context) {
  EvaluationParams params;
  params.context = context;
  return params;
}

TEST(Evaluate, UniformLogitsHaveThePerplexityOfTheVocabulary) {
  Bench bench = make_bench(uniform_model(), {});
  const auto result = evaluate(*bench.session, nullptr, *bench.runner, random_tokens(200, 101, 1), windows_of(64));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_NEAR(result->perplexity, 101, 1e-9);
  EXPECT_NEAR(result->nll_se, 0, 1e-12);
  EXPECT_FALSE(result->has_reference);
  EXPECT_EQ(result->windows, 4u);
  EXPECT_EQ(result->tokens, 3u * 63 + 7);
}

TEST(Evaluate, AModelHasNoDivergenceFromItself) {
  const PlainModel model = random_model(small_record(), 2);
  SessionParams streamed;
  streamed.mode = SessionMode::kStreamed;
  Bench a = make_bench(model, {}), b = make_bench(model, streamed);
  const auto result = evaluate(*a.session, b.session.get(), *a.runner, random_tokens(300, 101, 3), windows_of(100));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->kld_mean, 0);
  EXPECT_EQ(result->kld_max, 0);
  EXPECT_EQ(result->same_top, 1);
  EXPECT_EQ(result->nll_difference, 0);
  EXPECT_EQ(result->perplexity, result->reference_perplexity);
}

TEST(Evaluate, MatchesADirectComputation) {
  ModelRecord record = small_record();
  record.max_positions = 400;  // more than a batch, so that windows span several
  const PlainModel first = random_model(record, 4), second = random_model(record, 5);
  Bench q = make_bench(first, {}), p = make_bench(second, {});
  const std::vector<uint32_t> tokens = random_tokens(700, 101, 6);
  const auto result = evaluate(*q.session, p.session.get(), *q.runner, tokens, windows_of(300));
  ASSERT_TRUE(result.ok()) << result.status().message();

  std::vector<double> klds, nlls;
  std::vector<uint64_t> predicted;  // of each window
  double same = 0, reference_nll = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += 300) {
    const auto window = std::span(tokens).subspan(begin, std::min<size_t>(300, tokens.size() - begin));
    predicted.push_back(window.size() - 1);
    const std::vector<float> lq = all_logits(*q.session, window), lp = all_logits(*p.session, window);
    for (size_t t = 0; t + 1 < window.size(); ++t) {
      double zq = 0, zp = 0, kld = 0;
      for (size_t i = 0; i < 101; ++i) {
        zq += std::exp(double{lq[t * 101 + i]});
        zp += std::exp(double{lp[t * 101 + i]});
      }
      const auto log_q = [&](size_t i) { return lq[t * 101 + i] - std::log(zq); };
      const auto log_p = [&](size_t i) { return lp[t * 101 + i] - std::log(zp); };
      size_t top_q = 0, top_p = 0;
      for (size_t i = 0; i < 101; ++i) {
        kld += std::exp(log_p(i)) * (log_p(i) - log_q(i));
        if (log_q(i) > log_q(top_q)) top_q = i;
        if (log_p(i) > log_p(top_p)) top_p = i;
      }
      klds.push_back(kld);
      nlls.push_back(-log_q(window[t + 1]));
      reference_nll -= log_p(window[t + 1]);
      same += top_p == top_q;
    }
  }
  const double n = static_cast<double>(klds.size());
  ASSERT_EQ(result->tokens, klds.size());
  const auto mean = [n](const std::vector<double>& v) {
    double s = 0;
    for (double x : v) s += x;
    return s / n;
  };
  const std::vector<uint64_t> blocks = bootstrap_blocks(predicted);
  const auto error = [&](const std::vector<double>& v) { return bootstrap_mean(v, blocks).standard_error; };
  EXPECT_NEAR(result->nll, mean(nlls), 1e-5);
  EXPECT_NEAR(result->nll_se, error(nlls), 1e-5);
  EXPECT_NEAR(result->perplexity, std::exp(mean(nlls)), 1e-3);
  EXPECT_NEAR(result->reference_nll, reference_nll / n, 1e-5);
  EXPECT_NEAR(result->nll_difference, mean(nlls) - reference_nll / n, 1e-5);
  EXPECT_NEAR(result->kld_mean, mean(klds), 1e-5);
  EXPECT_NEAR(result->kld_se, error(klds), 1e-5);
  EXPECT_GT(result->kld_mean, 0.01) << "two models that differ";
  EXPECT_NEAR(result->same_top, same / n, 2.5 / n);
  EXPECT_NEAR(result->same_top_se, std::sqrt(same / n * (1 - same / n) / (n - 1)), 5e-3);
  std::sort(klds.begin(), klds.end());
  EXPECT_NEAR(result->kld_p90, quantile(klds, 0.9), 1e-4);
  EXPECT_NEAR(result->kld_p99, quantile(klds, 0.99), 1e-4);
  EXPECT_LT(result->kld_p90, result->kld_p99);
}

TEST(Evaluate, DoesNotDependOnThreads) {
  const PlainModel first = random_model(small_record(), 7), second = random_model(small_record(), 8);
  const std::vector<uint32_t> tokens = random_tokens(200, 101, 9);
  std::vector<double> klds, nlls;
  for (uint32_t threads : {1u, 3u}) {
    Bench a = make_bench(first, {}, threads), b = make_bench(second, {}, threads);
    const auto result = evaluate(*a.session, b.session.get(), *a.runner, tokens, {});
    ASSERT_TRUE(result.ok());
    klds.push_back(result->kld_mean);
    nlls.push_back(result->nll);
    EXPECT_LT(result->kld_low, result->kld_mean);
    EXPECT_GT(result->kld_high, result->kld_mean);
  }
  EXPECT_EQ(klds[0], klds[1]);
  EXPECT_EQ(nlls[0], nlls[1]);
}

TEST(Evaluate, MaxTokensCountsPredictedOnes) {
  Bench bench = make_bench(uniform_model(), {});
  const std::vector<uint32_t> tokens = random_tokens(200, 101, 1);
  EvaluationParams params = windows_of(50);
  for (uint64_t wanted : {1u, 48u, 49u, 50u, 98u, 99u, 196u, 197u, 100000u}) {
    params.max_tokens = wanted;
    const auto result = evaluate(*bench.session, nullptr, *bench.runner, tokens, params);
    ASSERT_TRUE(result.ok()) << wanted;
    EXPECT_EQ(result->tokens, std::min<uint64_t>(wanted, 196)) << wanted;
  }
  params.max_tokens = UINT64_MAX;
  EXPECT_TRUE(evaluate(*bench.session, nullptr, *bench.runner, tokens, params).ok());
}

TEST(Evaluate, RejectsWhatCannotBeMeasured) {
  const PlainModel model = random_model(small_record(), 10);
  SessionParams short_session;
  short_session.context = 64;
  Bench bench = make_bench(model, short_session);
  std::vector<uint32_t> tokens = random_tokens(100, 101, 11);
  const auto code = [&](std::span<const uint32_t> text, const EvaluationParams& params, Session* reference) {
    return evaluate(*bench.session, reference, *bench.runner, text, params).status().code();
  };
  EXPECT_EQ(code(tokens, windows_of(65), nullptr), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(tokens, windows_of(1), nullptr), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(std::span(tokens).first(1), {}, nullptr), StatusCode::kInvalidArgument);
  ModelRecord record = small_record();
  record.vocab_size = 102;
  Bench other = make_bench(random_model(record, 12), {});
  EXPECT_EQ(code(tokens, {}, other.session.get()), StatusCode::kInvalidArgument);
  EvaluationParams cancelled;
  cancelled.progress.callback = [](void*, uint64_t done, uint64_t) { return done < 64; };
  EXPECT_EQ(code(tokens, cancelled, nullptr), StatusCode::kCancelled);
  tokens[70] = 101;
  EXPECT_EQ(code(tokens, {}, nullptr), StatusCode::kInvalidArgument);
  PlainModel infinite = model;
  store_le(infinite.tensors["model.norm.weight"].bytes.data(), std::numeric_limits<float>::infinity());
  Bench broken = make_bench(infinite, {});
  const Status status = evaluate(*broken.session, nullptr, *broken.runner, random_tokens(10, 101, 1), {}).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt) << status.message();
}

TEST(Evaluate, QuantileInterpolates) {
  const std::vector<double> v = {0, 1, 2, 4};
  EXPECT_EQ(quantile(v, 0), 0);
  EXPECT_EQ(quantile(v, 1), 4);
  EXPECT_DOUBLE_EQ(quantile(v, 0.5), 1.5);
  EXPECT_DOUBLE_EQ(quantile(v, 0.9), 2 + 0.7 * 2);
  EXPECT_EQ(quantile({}, 0.5), 0);
}

TEST(Evaluate, GutenlmPrefersItsOwnTextToNoise) {
  PlainModel model = load_model(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
  ASSERT_FALSE(model.tensors.empty());
  SessionParams params;
  params.weight_dtype = Dtype::kBf16;
  Bench bench = make_bench(model, params);
  // Greedy text of its own making, predicted in one window.
  std::vector<uint32_t> tokens = {10, 20, 30};
  std::vector<float> logits(1024);
  ASSERT_TRUE(bench.session->eval(tokens, LogitsWanted::kLast, logits).ok());
  while (tokens.size() < 100) {
    tokens.push_back(static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ASSERT_TRUE(bench.session->eval({&tokens.back(), 1}, LogitsWanted::kLast, logits).ok());
  }
  const auto own = evaluate(*bench.session, nullptr, *bench.runner, tokens, {});
  ASSERT_TRUE(own.ok());
  EXPECT_EQ(own->context, 256u);
  EXPECT_LT(own->perplexity, 20);
  const auto noise = evaluate(*bench.session, nullptr, *bench.runner, random_tokens(100, 1024, 13), {});
  EXPECT_GT(noise->perplexity, 1024);
}

}  // namespace
}  // namespace nwc::test
