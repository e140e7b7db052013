#include "tests/fuzz/synthesis_bound.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace nwc::fuzz {
namespace {

constexpr double kUnit = 1.0 / (1 << 24);   // relative error of one f32 operation
constexpr double kTolerance = 1.0 / 16384;  // of the format
constexpr double kNearTheEnd = 1e30;
constexpr double kSlack = 2;  // operations that are left out below: conversions, folding, approximations of e^x

// Rounding errors of a sum of n terms, in units of kUnit times the terms' size: they add up like the steps of a random
// walk, and twice that is not exceeded in practice. (The worst case, n, is so far away that it would hide faults.)
double summed(size_t n) { return 2 * std::sqrt(static_cast<double>(n)) + 2; }

/// Numbers and how far off they may be, in units of kUnit.
struct Approximate {
  std::vector<double> value, error;
  explicit Approximate(size_t n) : value(n), error(n) {}
};

// to = m from + bias, or to += m from.
void multiply(const std::vector<float>& m, const float* bias, const Approximate& from, Approximate* to) {
  const size_t n = from.value.size();
  for (size_t o = 0; o < to->value.size(); ++o) {
    double sum = bias != nullptr ? bias[o] : to->value[o];
    double size = std::abs(sum), error = bias != nullptr ? 0 : to->error[o];
    for (size_t i = 0; i < n; ++i) {
      const double factor = m[o * n + i];
      sum += factor * from.value[i];
      size += std::abs(factor * from.value[i]);
      error += std::abs(factor) * from.error[i];
    }
    to->value[o] = sum;
    to->error[o] = error + summed(n) * size;
  }
}

void normalise(const NetworkBlock& block, Approximate* u) {
  const double w = static_cast<double>(u->value.size());
  double mean = 0, size = 0, mean_error = 0;
  for (size_t i = 0; i < u->value.size(); ++i) {
    mean += u->value[i] / w;
    size += std::abs(u->value[i]) / w;
    mean_error += u->error[i] / w;
  }
  mean_error += summed(u->value.size()) * size;
  double variance = 0, variance_error = 0;
  for (size_t i = 0; i < u->value.size(); ++i) {
    const double d = u->value[i] - mean, d_error = u->error[i] + mean_error;
    variance += d * d / w;
    // The error's square counts where the values are all alike.
    variance_error += (2 * std::abs(d) * d_error + kUnit * d_error * d_error) / w;
  }
  variance_error += summed(u->value.size()) * variance;
  const double factor = 1 / std::sqrt(variance + 1e-5);
  const double relative = variance_error / (variance + 1e-5) + 4;
  for (size_t i = 0; i < u->value.size(); ++i) {
    const double d = u->value[i] - mean, out = d * factor * block.norm_gain[i];
    const double factor_end = 1 / std::sqrt(1e-5);  // whatever the variance is taken for
    u->error[i] = std::abs(block.norm_gain[i]) * (u->error[i] + mean_error) *
                      std::min(factor_end, factor * (1 + kUnit * relative)) +
                  std::abs(out) * relative + 2 * (std::abs(out) + std::abs(block.norm_bias[i]));
    u->value[i] = out + block.norm_bias[i];
  }
}

void activate(Activation activation, const float* e, const Approximate& u, Approximate* h) {
  for (size_t i = 0; i < u.value.size(); ++i) {
    const double x = u.value[i];
    const double act = activation == Activation::kRelu ? std::max(x, 0.0) : x / (1 + std::exp(-x));
    const double error = 1.1 * u.error[i] + 8 * std::abs(act) + 1e-30;  // no steeper than 1.1
    const double sum = h->value[i] + act;
    h->error[i] = std::abs(e[i]) * (h->error[i] + error + 2 * (std::abs(h->value[i]) + std::abs(act)));
    h->value[i] = sum * e[i];
  }
}

bool in_range(const Approximate& a) {
  for (size_t i = 0; i < a.value.size(); ++i) {
    if (!(std::abs(a.value[i]) + a.error[i] < kNearTheEnd)) return false;
  }
  return true;
}

}  // namespace

bool bound_synthesis(const CodecRecord& codec, const int16_t* q, uint32_t level, SynthesisBound* out) {
  const Network& g = codec.synthesis;
  const size_t w = g.width;
  Approximate z(kChunk), y(kChunk);
  for (size_t i = 0; i < kChunk; ++i) {
    const double sign = (q[i] > 0) - (q[i] < 0), step = codec.step[level];
    z.value[i] = (q[i] - sign * codec.shrink[level]) * step;
    z.error[i] = 2 * (std::abs(q[i]) + 1) * step;
  }
  if (!in_range(z)) return false;
  if (w != 0) {
    Approximate h(w), u(w);
    multiply(g.input_weight, g.input_bias.data(), z, &h);
    for (size_t b = 0; b < g.blocks.size(); ++b) {
      multiply(g.blocks[b].weight, g.blocks[b].bias.data(), h, &u);
      if (!in_range(h) || !in_range(u)) return false;
      if (g.layer_norm) {
        for (const double v : u.value) {
          if (std::abs(v) > 1e15) return false;  // its square is near the end
        }
        normalise(g.blocks[b], &u);
      }
      activate(g.activation, g.level_embedding.data() + (b * codec.num_levels + level) * w, u, &h);
    }
    multiply(g.output_weight, g.output_bias.data(), h, &y);
    if (!in_range(h)) return false;
  }
  multiply(g.skip_weight, nullptr, z, &y);
  if (!in_range(y)) return false;
  out->largest = 0;
  for (size_t i = 0; i < kChunk; ++i) {
    out->y[i] = y.value[i];
    out->largest = std::max(out->largest, std::abs(y.value[i]));
  }
  for (size_t i = 0; i < kChunk; ++i) out->error[i] = kTolerance * (1 + out->largest) + kSlack * kUnit * y.error[i];
  return true;
}

}  // namespace nwc::fuzz
