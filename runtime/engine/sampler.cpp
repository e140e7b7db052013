#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nwc {

Pcg32::Pcg32(uint64_t seed, uint64_t stream) : increment_((stream << 1u) | 1u) {
  next();
  state_ += seed;
  next();
}

uint32_t Pcg32::next() {
  const uint64_t old = state_;
  state_ = old * 6364136223846793005u + increment_;
  const uint32_t shifted = static_cast<uint32_t>(((old >> 18u) ^ old) >> 27u);
  const uint32_t rotation = static_cast<uint32_t>(old >> 59u);
  return (shifted >> rotation) | (shifted << ((32u - rotation) & 31u));
}

Result<Sampler> Sampler::create(const SamplerParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    return invalid_argument("temperature must be finite and not negative");
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) return invalid_argument("top_p must be above 0 and at most 1");
  if (!(params.min_p >= 0 && params.min_p <= 1)) return invalid_argument("min_p must be from 0 to 1");
  if (!std::isfinite(params.repetition) || params.repetition <= 0)
    return invalid_argument("the repetition penalty must be finite and positive");
  if (!std::isfinite(params.presence)) return invalid_argument("the presence penalty must be finite");
  if (!std::isfinite(params.frequency)) return invalid_argument("the frequency penalty must be finite");
  return Sampler(params);
}

void Sampler::penalize() {
  for (const auto& [id, count] : drawn_) {
    if (id >= candidates_.size()) break;
    float& logit = candidates_[id].logit;
    logit = logit > 0 ? logit / params_.repetition : logit * params_.repetition;
    logit -= params_.presence + static_cast<float>(count) * params_.frequency;
    if (std::isnan(logit)) logit = -std::numeric_limits<float>::infinity();
  }
}

namespace {
/// The lowest id among equals; NaN counts as minus infinity.
uint32_t most_likely(std::span<const float> logits) {
  size_t best = 0;
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > largest)) continue;
    largest = logits[i];
    best = i;
  }
  return static_cast<uint32_t>(best);
}
}  // namespace

uint32_t Sampler::sample(std::span<const float> logits) {
  const uint32_t token = draw(logits);
  if (penalizes()) ++drawn_[token];
  return token;
}

uint32_t Sampler::draw(std::span<const float> logits) {
  assert(!logits.empty());
  if (params_.temperature == 0 && !penalizes()) return most_likely(logits);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
    candidates_.push_back({logit, static_cast<uint32_t>(i)});
  }
  if (penalizes()) penalize();
  // A strict order, the lower id first among equals: the same candidates on every platform.
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto best = std::min_element(candidates_.begin(), candidates_.end(), likelier);
  // Infinite logits leave no probabilities to compute.
  if (params_.temperature == 0 || !std::isfinite(best->logit)) return best->id;

  size_t kept = candidates_.size();
  if (params_.top_k != 0) kept = std::min<size_t>(kept, params_.top_k);
  const double largest = best->logit;
  const bool few = kept < candidates_.size();
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept);
  if (few) std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);

  const auto weight = [&](const Candidate& c) { return std::exp((c.logit - largest) / params_.temperature); };
  double total = 0;
  weights_.clear();
  if (params_.top_p < 1 && !few) {
    // Some hundreds of a vocabulary reach most shares: only as many are put in order.
    for (const Candidate& c : candidates_) total += weight(c);
    const double wanted = params_.top_p * total;
    double sum = 0;
    size_t ordered = 0;
    for (kept = 0; kept < candidates_.size() && sum < wanted; ++kept) {
      if (kept == ordered) {
        const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(ordered);
        ordered = std::min(candidates_.size(), std::max<size_t>(64, 4 * ordered));
        const auto middle = candidates_.begin() + static_cast<std::ptrdiff_t>(ordered);
        std::nth_element(begin, middle - 1, candidates_.end(), likelier);
        std::sort(begin, middle, likelier);
      }
      weights_.push_back(weight(candidates_[kept]));
      sum += weights_.back();
    }
    total = sum;
  } else {
    for (size_t i = 0; i < kept; ++i) {
      weights_.push_back(weight(candidates_[i]));
      total += weights_.back();
    }
  }
  if (params_.top_p < 1 && few) {
    const double wanted = params_.top_p * total;
    double sum = 0;
    size_t i = 0;
    while (i < kept && sum < wanted) sum += weights_[i++];
    kept = std::max<size_t>(1, i);
    total = sum;
  }
  if (params_.min_p > 0) {  // weights are ratios to the likeliest's; what was not sorted keeps its order
    total = 0;
    size_t left = 0;
    for (size_t i = 0; i < kept; ++i) {
      if (weights_[i] < static_cast<double>(params_.min_p)) continue;
      candidates_[left] = candidates_[i];
      weights_[left++] = weights_[i];
      total += weights_[i];
    }
    kept = left;
  }
  double target = rng_.uniform() * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    if (target < weights_[i]) return candidates_[i].id;
    target -= weights_[i];
  }
  return candidates_[kept - 1].id;
}

}  // namespace nwc
