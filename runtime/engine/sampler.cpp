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
  return Sampler(params);
}

uint32_t Sampler::sample(std::span<const float> logits) {
  assert(!logits.empty());
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
    candidates_.push_back({logit, static_cast<uint32_t>(i)});
  }
  // A strict order, the lower id first among equals: the same candidates on every platform.
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto best = std::min_element(candidates_.begin(), candidates_.end(), likelier);
  // Infinite logits leave no probabilities to compute.
  if (params_.temperature == 0 || !std::isfinite(best->logit)) return best->id;

  size_t kept = candidates_.size();
  if (params_.top_k != 0) kept = std::min<size_t>(kept, params_.top_k);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept);
  if (kept < candidates_.size()) std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);
  if (kept == candidates_.size() && params_.top_p < 1) std::sort(candidates_.begin(), end, likelier);

  const double largest = kept < candidates_.size() || params_.top_p < 1 ? candidates_[0].logit : best->logit;
  weights_.clear();
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    weights_.push_back(std::exp((candidates_[i].logit - largest) / params_.temperature));
    total += weights_.back();
  }
  if (params_.top_p < 1) {
    const double wanted = params_.top_p * total;
    double sum = 0;
    size_t i = 0;
    while (i < kept && sum < wanted) sum += weights_[i++];
    kept = std::max<size_t>(1, i);
    total = sum;
  }
  double target = rng_.uniform() * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    if (target < weights_[i]) return candidates_[i].id;
    target -= weights_[i];
  }
  return candidates_[kept - 1].id;
}

}  // namespace nwc
