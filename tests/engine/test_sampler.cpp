#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/engine/sampler.h"

namespace nwc {
namespace {

TEST(Sampler, Pcg32MatchesThePublishedSequence) {
  // pcg32-demo's first numbers for seed 42, stream 54.
  Pcg32 rng(42, 54);
  for (uint32_t expected : {0xa15c02b7u, 0x7b47f409u, 0xba1d3330u, 0x83d2f293u, 0xbfa4784bu, 0xcbed606eu}) {
    EXPECT_EQ(rng.next(), expected);
  }
}

TEST(Sampler, GreedyTakesTheLowestOfEqualsAndIgnoresNan) {
  Sampler s = *Sampler::create({});
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(s.sample(std::vector<float>{1, 3, 3, 2}), 1u);
  EXPECT_EQ(s.sample(std::vector<float>{nan, -5, nan}), 1u);
  EXPECT_EQ(s.sample(std::vector<float>{nan, nan}), 0u);
  EXPECT_EQ(s.sample(std::vector<float>{1, inf}), 1u);
  Sampler hot = *Sampler::create({.temperature = 2.0f, .top_k = 0, .top_p = 0.5f, .seed = 1});
  EXPECT_EQ(hot.sample(std::vector<float>{1, inf, nan}), 1u);
  EXPECT_EQ(hot.sample(std::vector<float>{nan, nan}), 0u);
}

std::vector<double> frequencies(const SamplerParams& params, const std::vector<float>& logits, int draws) {
  Sampler s = *Sampler::create(params);
  std::vector<double> f(logits.size());
  for (int i = 0; i < draws; ++i) f[s.sample(logits)] += 1.0 / draws;
  return f;
}

TEST(Sampler, DrawsWithTheRightProbabilities) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  const auto plain = frequencies({.temperature = 1, .top_k = 0, .top_p = 1, .seed = 7}, logits, 20000);
  for (auto [i, p] : {std::pair{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}})
    EXPECT_NEAR(plain[static_cast<size_t>(i)], p, 0.015);
  const auto cold = frequencies({.temperature = 0.5f, .top_k = 0, .top_p = 1, .seed = 7}, logits, 20000);
  EXPECT_NEAR(cold[1], 0.16 / 0.30, 0.015);
  const auto two = frequencies({.temperature = 1, .top_k = 2, .top_p = 1, .seed = 7}, logits, 20000);
  EXPECT_NEAR(two[1], 4.0 / 7, 0.015);
  EXPECT_EQ(two[0] + two[2], 0);
  // 0.4 + 0.3 reach 0.6, 0.4 alone does not; 0.3 is reached by the first.
  const auto nucleus = frequencies({.temperature = 1, .top_k = 0, .top_p = 0.6f, .seed = 7}, logits, 20000);
  EXPECT_NEAR(nucleus[3], 3.0 / 7, 0.015);
  EXPECT_EQ(nucleus[0] + nucleus[2], 0);
  EXPECT_NEAR(frequencies({.temperature = 1, .top_k = 0, .top_p = 0.3f, .seed = 7}, logits, 100)[1], 1.0, 1e-9);
  // top-p counts within what top-k left: of {4/7, 3/7} the first reaches 0.5.
  EXPECT_NEAR(frequencies({.temperature = 1, .top_k = 2, .top_p = 0.5f, .seed = 7}, logits, 100)[1], 1.0, 1e-9);
}

// Only the front of the vocabulary is put in order: the draws are those of a whole one in order.
TEST(Sampler, ANucleusIsThatOfTheWholeVocabularyInOrder) {
  std::vector<float> logits;
  Pcg32 random(5);
  for (int i = 0; i < 3000; ++i) logits.push_back(static_cast<float>(random.next() % 64) * 0.11f);  // many are equal
  std::vector<uint32_t> order(logits.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  for (const float top_p : {0.001f, 0.3f, 0.9f, 0.999f}) {
    for (const uint32_t top_k : {0u, 3000u, 5000u}) {
      double total = 0, sum = 0;
      for (const float l : logits) total += std::exp(double{l} - double{logits[order[0]]});
      size_t kept = 0;
      std::vector<double> weights;
      for (; sum < double{top_p} * total; ++kept) {
        weights.push_back(std::exp(double{logits[order[kept]]} - double{logits[order[0]]}));
        sum += weights.back();
      }
      Sampler s = *Sampler::create({.temperature = 1, .top_k = top_k, .top_p = top_p, .seed = 11});
      Pcg32 same(11);
      for (int i = 0; i < 200; ++i) {
        double target = same.uniform() * sum;
        size_t at = 0;
        while (at + 1 < kept && target >= weights[at]) target -= weights[at++];
        ASSERT_EQ(s.sample(logits), order[at]) << top_p << " " << top_k;
      }
    }
  }
}

TEST(Sampler, SameSeedSameTokens) {
  std::vector<float> logits;
  for (int i = 0; i < 500; ++i) logits.push_back(static_cast<float>(i % 37) * 0.1f);
  const SamplerParams params = {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .seed = 99};
  Sampler a = *Sampler::create(params), b = *Sampler::create(params);
  SamplerParams other = params;
  other.seed = 100;
  Sampler c = *Sampler::create(other);
  int differences = 0;
  for (int i = 0; i < 100; ++i) {
    const uint32_t token = a.sample(logits);
    EXPECT_EQ(token, b.sample(logits));
    differences += token != c.sample(logits);
  }
  EXPECT_GT(differences, 50);
}

TEST(Sampler, MinPKeepsWhatIsProbableEnough) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  SamplerParams params = {.temperature = 1, .top_k = 0, .top_p = 1, .seed = 7};
  params.min_p = 0.6f;  // of 0.4: 0.24
  auto f = frequencies(params, logits, 20000);
  EXPECT_NEAR(f[1], 4.0 / 7, 0.015);
  EXPECT_NEAR(f[3], 3.0 / 7, 0.015);
  EXPECT_EQ(f[0] + f[2], 0);
  params.min_p = 1;
  EXPECT_NEAR(frequencies(params, logits, 100)[1], 1.0, 1e-9);
  params.min_p = 0.6f;
  params.top_k = 3;  // after top-k and top-p, on what they left
  params.top_p = 0.7f;
  f = frequencies(params, logits, 20000);
  EXPECT_NEAR(f[1], 4.0 / 7, 0.015);
  params.temperature = 0.25f;  // after the temperature: (3/4)^4 is below 0.6
  EXPECT_NEAR(frequencies(params, logits, 100)[1], 1.0, 1e-9);
}

TEST(Sampler, PenaltiesLookAtWhatWasDrawn) {
  const auto draws = [](SamplerParams params, const std::vector<float>& logits, int count) {
    Sampler s = *Sampler::create(params);
    std::vector<uint32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(s.sample(logits));
    return out;
  };
  using Ids = std::vector<uint32_t>;
  SamplerParams params;
  // 4 / 2 = 2 once, however often it was drawn; a negative logit becomes -2.
  params.repetition = 2;
  EXPECT_EQ(draws(params, {4, 3, 2.5f, -1}, 5), (Ids{0, 1, 2, 0, 0}));
  EXPECT_EQ(draws(params, {-1, -1.5f, -1.75f}, 4), (Ids{0, 1, 2, 0}));
  params.repetition = 1;
  params.presence = 1.5f;  // 2.5, 1.5 and 1, once
  EXPECT_EQ(draws(params, {4, 3, 2}, 5), (Ids{0, 1, 0, 0, 0}));
  params.presence = 0;
  params.frequency = 0.75f;  // 4, 3.25, 2.5; 3, 2.25
  EXPECT_EQ(draws(params, {4, 3}, 5), (Ids{0, 0, 1, 0, 1}));
  params.frequency = -1;  // a reward
  EXPECT_EQ(draws(params, {4, 4, 3}, 3), (Ids{0, 0, 0}));
  params = {.temperature = 1, .seed = 3};
  params.presence = 1000;  // each token once, and then again
  Ids all = draws(params, {1, 2, 3, 4}, 4);
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, (Ids{0, 1, 2, 3}));
}

TEST(Sampler, RejectsNonsense) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (SamplerParams p : {SamplerParams{-1, 0, 1, 0},
                          {nan, 0, 1, 0},
                          {INFINITY, 0, 1, 0},
                          {1, 0, 0, 0},
                          {1, 0, 1.5f, 0},
                          {1, 0, nan, 0}}) {
    EXPECT_EQ(Sampler::create(p).status().code(), StatusCode::kInvalidArgument);
  }
  const auto code = [](auto&& change) {
    SamplerParams p;
    change(p);
    return Sampler::create(p).status().code();
  };
  for (const float bad : {nan, -0.1f, 1.1f})
    EXPECT_EQ(code([&](SamplerParams& p) { p.min_p = bad; }), StatusCode::kInvalidArgument) << bad;
  for (const float bad : {nan, 0.0f, -1.0f, INFINITY})
    EXPECT_EQ(code([&](SamplerParams& p) { p.repetition = bad; }), StatusCode::kInvalidArgument) << bad;
  for (const float bad : {nan, INFINITY}) {
    EXPECT_EQ(code([&](SamplerParams& p) { p.presence = bad; }), StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(code([&](SamplerParams& p) { p.frequency = bad; }), StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace nwc
