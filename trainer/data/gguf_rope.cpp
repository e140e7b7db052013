// Llama 3's rotary scaling from the factors that a GGUF file stores in its place.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "trainer/data/gguf_model.h"

namespace nwc {
namespace {

struct Scaling {
  double factor, low, high, original;
};

// Turns per token of pair i: the reciprocal of its wavelength.
double turns(const ModelRecord& model, size_t i) {
  return std::pow(static_cast<double>(model.block().rope.theta),
                  -2.0 * static_cast<double>(i) / model.block().head_dim) /
         (2 * std::numbers::pi);
}

// The definition (Llama 3.1's rope_scaling): long wavelengths are divided by the factor, short ones are left alone, in
// between the share of the unscaled frequency grows linearly with the turns within the original context.
double factor_of(const Scaling& s, double turns_per_token) {
  const double share = std::clamp((s.original * turns_per_token - s.low) / (s.high - s.low), 0.0, 1.0);
  return 1 / ((1 - share) / s.factor + share);
}

bool reproduces(const Scaling& scaling, const std::vector<float>& factors, const ModelRecord& model) {
  for (size_t i = 0; i < factors.size(); ++i) {
    if (std::abs(factor_of(scaling, turns(model, i)) / factors[i] - 1) > 1e-3) return false;
  }
  return true;
}

// share = slope * turns - offset through the first and last pair that are neither 1 nor the factor; with low = 1,
// offset = 1 / (high - 1) and slope = original / (high - 1).
Scaling fit(double factor, const std::vector<float>& factors, const ModelRecord& model) {
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < factors.size(); ++i) {
    const double share = (1.0 / factors[i] - 1 / factor) / (1 - 1 / factor);
    if (share > 1e-4 && share < 1 - 1e-4) points.emplace_back(turns(model, i), share);
  }
  if (points.size() < 2) return {factor, 1, 4, 8192};
  const auto [x0, y0] = points.front();
  const auto [x1, y1] = points.back();
  const double slope = (y0 - y1) / (x0 - x1);
  const double offset = slope * x0 - y0;
  return {factor, 1, 1 + 1 / offset, slope / offset};
}

}  // namespace

std::vector<float> llama3_scaling_factors(const ModelRecord& model) {
  const Scaling scaling = {model.block().rope.factor, model.block().rope.low_freq_factor,
                           model.block().rope.high_freq_factor,
                           static_cast<double>(model.block().rope.original_max_positions)};
  std::vector<float> factors(model.block().head_dim / 2);
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = static_cast<float>(factor_of(scaling, turns(model, i)));
  return factors;
}

Status recover_llama3_scaling(const std::vector<float>& factors, ModelRecord* model) {
  const bool positive = std::all_of(factors.begin(), factors.end(), [](float f) { return f > 0 && std::isfinite(f); });
  if (factors.empty() || !positive) return corrupt("tensor \"rope_freqs.weight\" must hold positive numbers");
  const double factor = *std::max_element(factors.begin(), factors.end());
  if (factor == 1 && *std::min_element(factors.begin(), factors.end()) == 1) return {};

  for (Scaling scaling : {Scaling{factor, 1, 4, 8192}, fit(factor, factors, *model)}) {
    scaling.original = std::round(scaling.original);
    // Written so that a NaN from the fit fails.
    const bool sane = scaling.original >= 1 && scaling.original <= (1 << 24) && scaling.high > 1 && scaling.high < 1e6;
    if (!sane || !reproduces(scaling, factors, *model)) continue;
    model->block().rope.scaling = RopeScaling::kLlama3;
    model->block().rope.factor = static_cast<float>(scaling.factor);
    model->block().rope.low_freq_factor = static_cast<float>(scaling.low);
    model->block().rope.high_freq_factor = static_cast<float>(scaling.high);
    model->block().rope.original_max_positions = static_cast<uint32_t>(scaling.original);
    return {};
  }
  return unsupported("tensor \"rope_freqs.weight\" holds factors that are not of Llama 3's form");
}

}  // namespace nwc
