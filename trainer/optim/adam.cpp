#include "trainer/optim/adam.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace nwc {

void Adam::step(std::span<float> params, std::span<const float> grad, double learning_rate, double max_norm) {
  assert(params.size() == mean.size() && grad.size() == mean.size());
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  ++updates;
  float clip = 1;
  if (max_norm > 0) {
    double squared = 0;
    for (const float g : grad) squared += static_cast<double>(g) * g;
    if (const double norm = std::sqrt(squared); norm > max_norm) clip = static_cast<float>(max_norm / norm);
  }
  // The bias corrections are folded into the rate and epsilon.
  const double correction1 = 1 - std::pow(kBeta1, static_cast<double>(updates));
  const double correction2 = std::sqrt(1 - std::pow(kBeta2, static_cast<double>(updates)));
  const auto rate = static_cast<float>(learning_rate * correction2 / correction1);
  const auto epsilon = static_cast<float>(kEpsilon * correction2);
  constexpr auto b1 = static_cast<float>(kBeta1), b2 = static_cast<float>(kBeta2);
  for (size_t i = 0; i < params.size(); ++i) {
    const float g = clip * grad[i];
    mean[i] = b1 * mean[i] + (1 - b1) * g;
    variance[i] = b2 * variance[i] + (1 - b2) * g * g;
    params[i] -= rate * mean[i] / (std::sqrt(variance[i]) + epsilon);
  }
}

double cosine_learning_rate(uint64_t step, uint64_t steps, uint64_t warmup, double peak, double floor) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (step >= steps) return floor;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace nwc
