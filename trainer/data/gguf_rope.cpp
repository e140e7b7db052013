// Rotary positions in GGUF: keys, and tensors of divisors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "trainer/data/gguf_model.h"
#include "trainer/data/model_kinds.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

struct Scaling {
  double factor, low, high, original;
};

// Turns per token of pair i: the reciprocal of its wavelength.
double turns(const RopeSpec& rope, uint32_t dims, size_t i) {
  return std::pow(static_cast<double>(rope.theta), -2.0 * static_cast<double>(i) / dims) / (2 * std::numbers::pi);
}

// The definition (Llama 3.1's rope_scaling): long wavelengths are divided by the factor, short ones are left alone, in
// between the share of the unscaled frequency grows linearly with the turns within the original context.
double factor_of(const Scaling& s, double turns_per_token) {
  const double share = std::clamp((s.original * turns_per_token - s.low) / (s.high - s.low), 0.0, 1.0);
  return 1 / ((1 - share) / s.factor + share);
}

bool reproduces(const Scaling& scaling, const std::vector<float>& factors, const RopeSpec& rope, uint32_t dims) {
  for (size_t i = 0; i < factors.size(); ++i) {
    if (std::abs(factor_of(scaling, turns(rope, dims, i)) / factors[i] - 1) > 1e-5) return false;
  }
  return true;
}

// share = slope * turns - offset through the first and last pair that are neither 1 nor the factor; with low = 1,
// offset = 1 / (high - 1) and slope = original / (high - 1).
Scaling fit(double factor, const std::vector<float>& factors, const RopeSpec& rope, uint32_t dims) {
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < factors.size(); ++i) {
    const double share = (1.0 / factors[i] - 1 / factor) / (1 - 1 / factor);
    if (share > 1e-4 && share < 1 - 1e-4) points.emplace_back(turns(rope, dims, i), share);
  }
  if (points.size() < 2) return {factor, 1, 4, 8192};
  const auto [x0, y0] = points.front();
  const auto [x1, y1] = points.back();
  const double slope = (y0 - y1) / (x0 - x1);
  const double offset = slope * x0 - y0;
  return {factor, 1, 1 + 1 / offset, slope / offset};
}

/// The kind of block whose rotary positions are scaled; others of the model have plain ones.
const BlockSpec& scaled_block(const ModelRecord& model) {
  for (const BlockSpec& block : model.blocks) {
    if (block.rope.scaling != RopeScaling::kNone && block.positions == Positions::kRotary) return block;
  }
  return model.block();
}

Status read_factors(const GgufFile& file, const char* name, uint32_t dims, std::vector<float>* out) {
  const GgufTensor* factors = find_gguf_tensor(file, name);
  if (factors == nullptr) return {};
  if (factors->type->dtype != Dtype::kF32 || factors->type->quantized() ||
      factors->shape != std::vector<uint64_t>{dims / 2}) {
    return corrupt(quote_tensor(name) + " must hold one F32 for each pair of dimensions that rotates");
  }
  out->resize(dims / 2);
  NWC_TRY(factors->reader->read(factors->offset, {reinterpret_cast<uint8_t*>(out->data()), out->size() * 4}));
  const bool positive = std::all_of(out->begin(), out->end(), [](float f) { return f > 0 && std::isfinite(f); });
  return positive ? Status() : corrupt(quote_tensor(name) + " must hold positive numbers");
}

// llama.cpp multiplies what rotates by 1 + 0.1 log(factor), divided by the same with the multiplier where there is one.
Status read_yarn(const GgufFile& file, const std::string& prefix, RopeSpec* rope) {
  const std::string scaling = prefix + "rope.scaling.";
  NWC_TRY(file.get(scaling + "yarn_beta_fast", &rope->beta_fast));
  NWC_TRY(file.get(scaling + "yarn_beta_slow", &rope->beta_slow));
  float multiplier = 0, scale = 1;
  NWC_TRY(file.get(scaling + "yarn_log_multiplier", &multiplier));
  NWC_TRY(file.get(scaling + "attn_factor", &scale));
  double factor = yarn_scale(rope->factor) * scale;
  if (multiplier != 0) factor /= yarn_scale(rope->factor, multiplier);
  rope->attention_factor = static_cast<float>(factor);
  return file.get(scaling + "yarn_attn_factor", &rope->attention_factor);
}

}  // namespace

bool is_rope_factors(const std::string& name) {
  return name == kRopeFactors || name == kShortRopeFactors || name == kLongRopeFactors;
}

std::vector<float> rope_factors(const ModelRecord& model, const std::string& name) {
  const BlockSpec& block = scaled_block(model);
  const RopeSpec& rope = block.rope;
  if (rope.scaling == RopeScaling::kLong) {
    if (name == kLongRopeFactors) return rope.long_factors;
    return is_rope_factors(name) ? rope.short_factors : std::vector<float>();
  }
  if (rope.scaling != RopeScaling::kLlama3 || name != kRopeFactors) return {};
  const Scaling scaling = {rope.factor, rope.low_freq_factor, rope.high_freq_factor,
                           static_cast<double>(rope.original_max_positions)};
  std::vector<float> factors(block.rope_dims() / 2);
  for (size_t i = 0; i < factors.size(); ++i)
    factors[i] = static_cast<float>(factor_of(scaling, turns(rope, block.rope_dims(), i)));
  return factors;
}

Status set_rope_factors(const std::vector<float>& factors, uint32_t max_positions, uint32_t dims, RopeSpec* rope) {
  const bool positive = std::all_of(factors.begin(), factors.end(), [](float f) { return f > 0 && std::isfinite(f); });
  if (factors.empty() || !positive) return corrupt("tensor \"rope_freqs.weight\" must hold positive numbers");
  const double factor = *std::max_element(factors.begin(), factors.end());
  if (factor == 1 && *std::min_element(factors.begin(), factors.end()) == 1) return {};

  for (Scaling scaling : {Scaling{factor, 1, 4, 8192}, fit(factor, factors, *rope, dims)}) {
    scaling.original = std::round(scaling.original);
    // Written so that a NaN from the fit fails.
    const bool sane = scaling.original >= 1 && scaling.original <= (1 << 24) && scaling.high > 1 && scaling.high < 1e6;
    if (!sane || !reproduces(scaling, factors, *rope, dims)) continue;
    rope->scaling = RopeScaling::kLlama3;
    rope->factor = static_cast<float>(scaling.factor);
    rope->low_freq_factor = static_cast<float>(scaling.low);
    rope->high_freq_factor = static_cast<float>(scaling.high);
    rope->original_max_positions = static_cast<uint32_t>(scaling.original);
    return {};
  }
  rope->scaling = RopeScaling::kLong;
  rope->original_max_positions = max_positions;
  rope->short_factors = rope->long_factors = factors;
  return {};
}

Status read_gguf_rope(const GgufFile& file, const std::string& prefix, ModelRecord* model) {
  RopeSpec& rope = model->block().rope;
  const uint32_t dims = model->block().rope_dims();
  rope.theta = 10000;
  NWC_TRY(file.get(prefix + "rope.freq_base", &rope.theta));
  std::string type = "none";
  float factor = 1;
  if (file.has(prefix + "rope.scale_linear")) {  // the key of early files
    type = "linear";
    NWC_TRY(file.get(prefix + "rope.scale_linear", &factor));
  }
  NWC_TRY(file.get(prefix + "rope.scaling.type", &type));
  NWC_TRY(file.get(prefix + "rope.scaling.factor", &factor));
  std::vector<float> all, up_to, beyond;
  NWC_TRY(read_factors(file, kRopeFactors, dims, &all));
  NWC_TRY(read_factors(file, kShortRopeFactors, dims, &up_to));
  NWC_TRY(read_factors(file, kLongRopeFactors, dims, &beyond));
  if (up_to.empty() != beyond.empty()) {
    return corrupt(std::string("tensors \"") + kShortRopeFactors + "\" and \"" + kLongRopeFactors +
                   "\": one is there, the other is missing");
  }
  uint32_t original = model->max_positions;
  NWC_TRY(file.get(prefix + "rope.scaling.original_context_length", &original));
  if (original == 0) return corrupt("metadata key \"" + prefix + "rope.scaling.original_context_length\" is 0");
  if (type == "longrope" || (type == "none" && !beyond.empty())) {
    if (beyond.empty()) return corrupt(std::string("tensor \"") + kLongRopeFactors + "\" is missing");
    rope.scaling = RopeScaling::kLong;
    rope.original_max_positions = original;
    rope.short_factors = up_to;
    rope.long_factors = beyond;
    return file.get(prefix + "rope.scaling.attn_factor", &rope.attention_factor);
  }
  if (type == "linear" || type == "yarn") {
    if (!(factor > 0)) return corrupt("metadata key \"" + prefix + "rope.scaling.factor\" must be positive");
    rope.factor = factor;
    if (type == "yarn") {
      rope.scaling = RopeScaling::kYarn;
      rope.original_max_positions = original;
      NWC_TRY(read_yarn(file, prefix, &rope));
    } else if (factor != 1) {
      rope.scaling = RopeScaling::kLinear;
    }
  } else if (type != "none") {
    return unsupported("metadata key \"" + prefix + "rope.scaling.type\": \"" + type + "\"");
  }
  if (all.empty()) return {};
  if (rope.scaling != RopeScaling::kNone)
    return unsupported("rotary scaling of type " + type + " together with rope_freqs");
  return set_rope_factors(all, model->max_positions, dims, &rope);
}

}  // namespace nwc
