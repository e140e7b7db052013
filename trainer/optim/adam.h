// Adam (Kingma and Ba 2015, arXiv:1412.6980) and the learning-rate schedule.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nwc {

/// Moments of a flat parameter array; the whole state of the optimizer, with the number of updates so far.
struct Adam {
  std::vector<float> mean, variance;
  uint64_t updates = 0;

  explicit Adam(size_t parameters = 0) : mean(parameters), variance(parameters) {}
  /// One update with beta = (0.9, 0.999), epsilon 1e-8. The gradient is scaled down to `max_norm` first (0: never).
  void step(std::span<float> params, std::span<const float> grad, double learning_rate, double max_norm);
};

/// Linear warm-up over `warmup` steps, then half a cosine from `peak` down to `floor` at `steps`. With floor = peak
/// the rate is constant, as in the paper (Table 3).
double cosine_learning_rate(uint64_t step, uint64_t steps, uint64_t warmup, double peak, double floor);

}  // namespace nwc
