#include "bench/encode_layer.h"

#include <cmath>

#include "trainer/codec/identity_codec.h"
#include "trainer/nn/random.h"

namespace nwc::bench {
namespace {

constexpr double kDamping = 0.005;

/// Inputs whose neighbours are correlated and whose power falls off.
std::vector<float> make_hessian(size_t n) {
  std::vector<float> h(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double distance = std::abs(static_cast<double>(i) - static_cast<double>(j));
      const double power = std::exp2(-3.0 * static_cast<double>(i + j) / static_cast<double>(n));
      h[i * n + j] = static_cast<float>(power * std::exp(-distance / 8));
    }
  }
  return h;
}

std::vector<float> make_weights(size_t count) {
  Random random({1});
  std::vector<float> w(count);
  for (float& v : w) v = static_cast<float>(random.normal());
  return w;
}

}  // namespace

EncodeLayer::EncodeLayer(size_t n, Runner& runner)
    : n_(n),
      runner_(runner),
      w_(make_weights(n * n)),
      hessian_(make_hessian(n)),
      factors_(factor_hessian(hessian_, n, kDamping, runner)) {}

void EncodeLayer::factor() { factors_ = factor_hessian(hessian_, n_, kDamping, runner_); }

void EncodeLayer::choose(uint32_t state_bits) {
  state_bits_ = state_bits;
  ladder_ = make_ladder(identity_codec(), {.trellis_bits = state_bits, .row_classes = true});
  costs_ = std::make_unique<TableCosts>(ladder_.record);
  tables_ = std::make_unique<EncodeTables>(ladder_.record);
  TensorImportance importance;
  importance.diagonal = factors_->diagonal;
  const StepProfile profile = profile_tensor(w_, n_, n_, importance, Importance::kWaterfill, true);
  steps_ = choose_steps(profile, ladder_.record, profile.mean_octaves() - (state_bits != 0 ? 2.95 : 1.95));
}

void EncodeLayer::search(bool feedback) {
  const QuantizeJob job{.codec = ladder_,
                        .costs = *costs_,
                        .rdo_strength = 0,
                        .w = w_,
                        .m = n_,
                        .n = n_,
                        .steps = steps_,
                        .feedback = feedback ? &*factors_ : nullptr,
                        .row_importance = {},
                        .tile_rows = choose_tile_shape(n_, n_, state_bits_ != 0).rows,
                        .decoded = {}};
  quantized_ = quantize_tensor(job, runner_, nullptr, nullptr);
}

void EncodeLayer::encode() { static_cast<void>(encode_tensor(*tables_, quantized_, runner_)); }

}  // namespace nwc::bench
