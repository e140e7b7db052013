#include "trainer/data/model_compare.h"

#include <algorithm>
#include <cmath>

namespace nwc {
namespace {

bool close(float a, float b) { return a == b || std::abs(a - b) <= 1e-6f * std::max(std::abs(a), std::abs(b)); }

/// Collects each name once.
class Differences {
 public:
  void expect(bool same, const char* field) {
    if (!same && std::find(names_.begin(), names_.end(), field) == names_.end()) names_.emplace_back(field);
  }
  std::vector<std::string> take() { return std::move(names_); }

 private:
  std::vector<std::string> names_;
};

void compare_rope(const BlockSpec& a, const BlockSpec& b, Differences* out) {
  out->expect(a.positions == b.positions, "layers without positions");
  if (a.positions != Positions::kRotary || b.positions != Positions::kRotary) return;
  const RopeSpec &x = a.rope, &y = b.rope;
  out->expect(a.rope_dims() == b.rope_dims(), "dimensions that rotate");
  out->expect(close(x.theta, y.theta), "rotary base");
  const bool factors = x.scaling == RopeScaling::kLinear || x.scaling == RopeScaling::kLlama3 ||
                       x.scaling == RopeScaling::kYarn || x.scaling == RopeScaling::kDynamic;
  bool same = x.scaling == y.scaling && (!factors || close(x.factor, y.factor)) && x.short_factors == y.short_factors &&
              x.long_factors == y.long_factors;
  if (x.scaling != RopeScaling::kNone && x.scaling != RopeScaling::kLinear)
    same = same && x.original_max_positions == y.original_max_positions;
  if (x.scaling == RopeScaling::kLlama3)
    same = same && close(x.low_freq_factor, y.low_freq_factor) && close(x.high_freq_factor, y.high_freq_factor);
  if (x.scaling == RopeScaling::kYarn)
    same = same && close(x.beta_fast, y.beta_fast) && close(x.beta_slow, y.beta_slow) && x.truncate == y.truncate;
  if (x.scaling == RopeScaling::kYarn || x.scaling == RopeScaling::kLong)
    same = same && close(x.attention_factor, y.attention_factor);
  out->expect(same, "rotary scaling");
}

void compare_blocks(const BlockSpec& a, const BlockSpec& b, Differences* out) {
  out->expect(a.norm == b.norm && a.norm_bias == b.norm_bias && close(a.norm_eps, b.norm_eps), "norm");
  out->expect(a.norm_before == b.norm_before && a.norm_after == b.norm_after, "places of norms");
  out->expect(a.parallel == b.parallel, "parallel attention and MLP");
  out->expect(close(a.residual_scale, b.residual_scale), "residual scale");
  out->expect(a.num_heads == b.num_heads && a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim, "heads");
  out->expect(a.window == b.window, "windows");
  out->expect(a.qkv_bias == b.qkv_bias && a.output_bias == b.output_bias && a.mlp_bias == b.mlp_bias, "biases");
  out->expect(a.causal == b.causal, "causal attention");
  out->expect(a.sinks == b.sinks, "attention sinks");
  out->expect(a.qk_norm == b.qk_norm, "norms of q and k");
  out->expect(close(a.attention_softcap, b.attention_softcap), "soft cap of attention");
  out->expect(close(score_scale(a), score_scale(b)), "attention scale");
  out->expect(close(a.temperature_beta, b.temperature_beta) &&
                  (a.temperature_beta == 0 || a.temperature_positions == b.temperature_positions),
              "scale of queries by position");
  compare_rope(a, b, out);
  out->expect(a.intermediate_size == b.intermediate_size && a.gated == b.gated && a.activation == b.activation &&
                  close(a.clamp, b.clamp),
              "MLP");
  out->expect(a.experts == b.experts, "experts");
}

}  // namespace

std::vector<std::string> model_differences(const ModelRecord& a, const ModelRecord& b) {
  Differences out;
  out.expect(a.vocab_size == b.vocab_size && a.hidden_size == b.hidden_size && a.num_layers == b.num_layers &&
                 a.max_positions == b.max_positions,
             "sizes");
  out.expect(a.tied_embeddings == b.tied_embeddings, "head that is the embedding or is not");
  out.expect(close(a.ends.embedding_scale, b.ends.embedding_scale), "embedding scale");
  out.expect(a.ends.position_rows == b.ends.position_rows, "learned positions");
  out.expect(a.ends.final_norm == b.ends.final_norm && a.ends.head_bias == b.ends.head_bias, "final norm or head bias");
  out.expect(close(a.ends.logit_softcap, b.ends.logit_softcap), "soft cap of logits");
  out.expect(close(a.ends.logit_scale, b.ends.logit_scale), "logit scale");
  for (uint32_t l = 0; l < std::min(a.num_layers, b.num_layers); ++l) compare_blocks(a.block(l), b.block(l), &out);
  return out.take();
}

}  // namespace nwc
