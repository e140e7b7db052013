#include "runtime/engine/rope.h"

#include <cmath>
#include <numbers>

namespace nwc {

std::vector<double> rope_frequencies(const ModelRecord& model) {
  const uint32_t half = model.head_dim / 2;
  std::vector<double> frequencies(half);
  for (uint32_t i = 0; i < half; ++i) {
    double f = std::pow(static_cast<double>(model.rope_theta), -2.0 * i / model.head_dim);
    if (model.rope_scaling == RopeScaling::kLinear) f /= model.rope_factor;
    if (model.rope_scaling == RopeScaling::kLlama3) {
      // Long waves are stretched by the factor, short ones kept, those between blended by their length.
      const double low = model.rope_low_freq_factor, high = model.rope_high_freq_factor;
      const double waves = model.rope_original_max_positions * f / (2 * std::numbers::pi);  // in the original context
      if (waves < low) {
        f /= model.rope_factor;
      } else if (waves <= high) {
        const double blend = (waves - low) / (high - low);
        f = (1 - blend) * f / model.rope_factor + blend * f;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

void rope_angles(const std::vector<double>& frequencies, uint32_t position, float* cosine, float* sine) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    cosine[i] = static_cast<float>(std::cos(position * frequencies[i]));
    sine[i] = static_cast<float>(std::sin(position * frequencies[i]));
  }
}

}  // namespace nwc
