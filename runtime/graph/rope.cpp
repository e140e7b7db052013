#include "runtime/graph/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nwc {
namespace {

/// The dimension that turns `turns` times in the trained length (Peng et al. 2023, section 3.2).
double dimension_of_turns(const RopeSpec& rope, double dims, double turns) {
  return dims * std::log(rope.original_max_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(static_cast<double>(rope.theta)));
}

/// Llama 3.1: long waves are stretched by the factor, short ones kept, those between blended by their length.
double scale_llama3(const RopeSpec& rope, double f) {
  const double low = rope.low_freq_factor, high = rope.high_freq_factor;
  const double waves = rope.original_max_positions * f / (2 * std::numbers::pi);  // in the trained length
  if (waves < low) return f / rope.factor;
  if (waves > high) return f;
  const double blend = (waves - low) / (high - low);
  return (1 - blend) * f / rope.factor + blend * f;
}

/// What of each frequency YaRN leaves as it is, the rest being divided by the factor.
std::vector<double> yarn_shares(const RopeSpec& rope, uint32_t dims) {
  double low = dimension_of_turns(rope, dims, rope.beta_fast), high = dimension_of_turns(rope, dims, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1.0);
  if (low == high) high += 0.001;
  std::vector<double> shares(dims / 2);
  for (size_t i = 0; i < shares.size(); ++i)
    shares[i] = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return shares;
}

}  // namespace

std::vector<double> rope_frequencies(const BlockSpec& block, uint32_t context) {
  const RopeSpec& rope = block.rope;
  const uint32_t dims = block.rope_dims();
  double base = rope.theta;
  if (rope.scaling == RopeScaling::kDynamic && context > rope.original_max_positions && dims > 2) {
    const double stretch =
        rope.factor * (static_cast<double>(context) / rope.original_max_positions) - (rope.factor - 1);
    base *= std::pow(stretch, dims / (dims - 2.0));
  }
  const bool beyond = context > rope.original_max_positions;
  const std::vector<double> shares =
      rope.scaling == RopeScaling::kYarn ? yarn_shares(rope, dims) : std::vector<double>();
  std::vector<double> frequencies(dims / 2);
  for (uint32_t i = 0; i < dims / 2; ++i) {
    double f = std::pow(base, -2.0 * i / dims);
    switch (rope.scaling) {
      case RopeScaling::kLinear: f /= rope.factor; break;
      case RopeScaling::kLlama3: f = scale_llama3(rope, f); break;
      case RopeScaling::kYarn: f = (1 - shares[i]) * f / rope.factor + shares[i] * f; break;
      case RopeScaling::kLong: f /= static_cast<double>((beyond ? rope.long_factors : rope.short_factors)[i]); break;
      case RopeScaling::kNone:
      case RopeScaling::kDynamic: break;
    }
    frequencies[i] = f;
  }
  return frequencies;
}

float query_scale(const BlockSpec& block, uint32_t position) {
  if (block.temperature_beta == 0) return 1;
  const uint32_t periods = position / block.temperature_positions;
  return static_cast<float>(1 + static_cast<double>(block.temperature_beta) * std::log(1.0 + periods));
}

RotaryTables::RotaryTables(const ModelRecord& model, uint32_t context) {
  std::vector<uint32_t> begins;
  for (const BlockSpec& block : model.blocks) {
    const auto same = [&](const Table& t) {
      return t.block.rope_dims() == block.rope_dims() && (block.rope_dims() == 0 || t.block.rope == block.rope) &&
             t.block.temperature_beta == block.temperature_beta &&
             t.block.temperature_positions == block.temperature_positions;
    };
    const auto known = std::find_if(tables_.begin(), tables_.end(), same);
    if (known != tables_.end()) {
      at_.push_back(begins[static_cast<size_t>(known - tables_.begin())]);
      continue;
    }
    at_.push_back(width_);
    begins.push_back(width_);
    width_ += block.rope_dims() + 1;
    tables_.push_back({block, rope_frequencies(block, context)});
  }
}

void RotaryTables::angles(uint32_t position, float* row) const {
  for (const Table& table : tables_) {
    const size_t half = table.frequencies.size();
    const double factor = table.block.rope.attention_factor;
    for (size_t i = 0; i < half; ++i) {
      row[i] = static_cast<float>(factor * std::cos(position * table.frequencies[i]));
      row[half + i] = static_cast<float>(factor * std::sin(position * table.frequencies[i]));
    }
    row[2 * half] = query_scale(table.block, position);
    row += 2 * half + 1;
  }
}

}  // namespace nwc
