#include "trainer/data/hf_family_experts.h"

#include <algorithm>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_family_parts.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

/// What the configurations of mixtures have in common. An expert is as wide as the key says, else as the defaults do,
/// or else as the configuration's MLP.
Status read_experts(ConfigReader& c, const char* width_key, const ExpertSpec& defaults, BlockSpec* b) {
  ExpertSpec& e = b->experts;
  e = defaults;
  if (e.intermediate_size == 0) e.intermediate_size = b->intermediate_size;
  for (const char* count : {"num_experts", "num_local_experts"}) NWC_TRY(c.get(count, &e.num_experts));
  NWC_TRY(c.get("num_experts_per_tok", &e.per_token));
  if (width_key != nullptr) NWC_TRY(c.get(width_key, &e.intermediate_size));
  NWC_TRY(c.get("norm_topk_prob", &e.normalized));
  for (const char* training_only : {"router_aux_loss_coef", "output_router_logits", "router_jitter_noise"})
    c.find(training_only);
  return {};
}

/// Which layers are dense, by two keys.
Status read_dense_layers(ConfigReader& c, uint32_t layers, std::vector<bool>* dense) {
  uint32_t step = 1;
  NWC_TRY(c.get("decoder_sparse_step", &step));
  if (step == 0) return corrupt("field \"decoder_sparse_step\" is 0");
  const Json* only = c.find("mlp_only_layers");
  if (only != nullptr && !only->is_array()) return corrupt("field \"mlp_only_layers\" must be a list");
  for (uint32_t l = 0; l < layers; ++l) {
    const bool named = only != nullptr && std::find(only->begin(), only->end(), Json(l)) != only->end();
    dense->push_back(named || (l + 1) % step != 0);
  }
  return {};
}

Status read_qwen_moe(ConfigReader& c, bool qwen3, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 32768}, m, &b));
  if (qwen3) {
    b.qk_norm = QkNorm::kPerHead;
    if (!c.has("num_key_value_heads")) b.num_kv_heads = 4;
    NWC_TRY(
        read_experts(c, "moe_intermediate_size", {.num_experts = 128, .per_token = 8, .intermediate_size = 768}, &b));
  } else {
    b.qkv_bias = true;
    NWC_TRY(c.get("qkv_bias", &b.qkv_bias));
    b.output_bias = false;
    NWC_TRY(
        read_experts(c, "moe_intermediate_size", {.num_experts = 60, .per_token = 4, .intermediate_size = 1408}, &b));
    b.experts.shared_gate = true;
    b.experts.shared_intermediate_size = 5632;
    NWC_TRY(c.get("shared_expert_intermediate_size", &b.experts.shared_intermediate_size));
  }
  std::vector<bool> dense;
  NWC_TRY(read_dense_layers(c, m->num_layers, &dense));
  const bool any_dense = std::find(dense.begin(), dense.end(), true) != dense.end();
  if (any_dense && b.experts.shared_intermediate_size != 0)
    return unsupported("\"mlp_only_layers\" or \"decoder_sparse_step\": dense layers beside shared experts");
  uint32_t window = 0;
  std::vector<bool> slides;
  NWC_TRY(read_qwen_windows(c, qwen3, m->num_layers, &window, &slides));
  std::vector<BlockSpec> layers(m->num_layers, b);
  for (uint32_t l = 0; l < m->num_layers; ++l) {
    if (slides[l] && window < m->max_positions) layers[l].window = window;
    if (dense[l] || b.experts.num_experts == 0) {
      layers[l].experts = ExpertSpec();
    } else {
      layers[l].intermediate_size = b.experts.intermediate_size;
    }
  }
  return set_layers(layers, m);
}

Status read_granite(ConfigReader& c, bool experts, bool shared, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, Habits(), m, &b));
  if (experts) {
    NWC_TRY(read_experts(c, nullptr, {.num_experts = 8, .per_token = 2, .router = RouterKind::kTopKThenSoftmax}, &b));
    if (shared) NWC_TRY(c.get("shared_intermediate_size", &b.experts.shared_intermediate_size));
  }
  float logits_scaling = 1;
  b.attention_scale = 1;
  NWC_TRY(c.get("embedding_multiplier", &m->ends.embedding_scale));
  NWC_TRY(c.get("logits_scaling", &logits_scaling));
  NWC_TRY(c.get("residual_multiplier", &b.residual_scale));
  NWC_TRY(c.get("attention_multiplier", &b.attention_scale));
  if (!(logits_scaling > 0)) return not_positive("logits_scaling", logits_scaling);
  if (!(b.attention_scale > 0)) return not_positive("attention_multiplier", b.attention_scale);
  m->ends.logit_scale = 1 / logits_scaling;
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

}  // namespace

Status read_mixtral(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 131072, .eps = 1e-5f}, m, &b));
  if (!c.has("num_key_value_heads")) b.num_kv_heads = 8;
  NWC_TRY(read_experts(c, nullptr, {.num_experts = 8, .per_token = 2, .normalized = true}, &b));
  uint32_t window = 0;
  NWC_TRY(read_window(c, 0, &window));
  return set_windows(b, std::vector<bool>(m->num_layers, window != 0), window, m);
}

Status read_qwen2_moe(ConfigReader& c, ModelRecord* m) { return read_qwen_moe(c, false, m); }

Status read_qwen3_moe(ConfigReader& c, ModelRecord* m) { return read_qwen_moe(c, true, m); }

Status read_olmoe(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 4096, .eps = 1e-5f}, m, &b));
  b.qk_norm = QkNorm::kWhole;
  NWC_TRY(read_experts(c, nullptr, {.num_experts = 64, .per_token = 8}, &b));
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

Status read_granite_dense(ConfigReader& c, ModelRecord* m) { return read_granite(c, false, false, m); }

Status read_granite_moe(ConfigReader& c, ModelRecord* m) { return read_granite(c, true, false, m); }

Status read_granite_moe_shared(ConfigReader& c, ModelRecord* m) { return read_granite(c, true, true, m); }

Status read_gpt_oss(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  b.rope.theta = 150000;
  NWC_TRY(read_common(c, {.max_positions = 131072, .eps = 1e-5f}, m, &b));
  if (!c.has("num_key_value_heads")) b.num_kv_heads = 8;
  if (!c.has("head_dim")) b.head_dim = 64;
  bool bias = true;
  NWC_TRY(c.get("attention_bias", &bias));
  b.qkv_bias = b.output_bias = bias;
  b.sinks = b.mlp_bias = b.up_plus_one = true;
  NWC_TRY(read_experts(
      c, nullptr, {.num_experts = 128, .per_token = 4, .router = RouterKind::kTopKThenSoftmax, .router_bias = true},
      &b));
  NWC_TRY(c.get("experts_per_token", &b.experts.per_token));
  float alpha = 1.702f;
  b.clamp = 7;
  NWC_TRY(c.get("swiglu_limit", &b.clamp));
  NWC_TRY(c.get("swiglu_alpha", &alpha));
  if (alpha != 1.702f)
    return unsupported("\"swiglu_alpha\" is " + std::to_string(alpha) +
                       ", which the engine does not run (it runs 1.702)");
  b.activation = MlpActivation::kQuickGelu;
  uint32_t window = 0;
  NWC_TRY(read_window(c, 128, &window));
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t l) { return window != 0 && l % 2 == 0; }, &slides));
  c.find("initial_context_length");  // of the older form of the rotary settings
  return set_windows(b, slides, window, m);
}

SourceForm stacked_form(Role role) { return of_expert(role) ? SourceForm::kStacked : SourceForm::kPlain; }
SourceForm gpt_oss_form(Role role) {
  if (role == Role::kExpertGateUp) return SourceForm::kStackedPairs;
  if (role == Role::kExpertDown) return SourceForm::kStackedTransposed;
  return role == Role::kExpertGateUpBias ? SourceForm::kPairs : SourceForm::kPlain;
}

}  // namespace nwc
