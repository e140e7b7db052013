#include "trainer/data/hf_family.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_names.h"
#include "trainer/data/hf_rope.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

/// Defaults of a family's configuration class in transformers, and the names of its keys where they differ.
struct Habits {
  bool tied = false;
  uint32_t max_positions = 2048;
  const char* eps_key = "rms_norm_eps";
  float eps = 1e-6f;
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
};

Status not_positive(const char* key, float value) {
  return corrupt(std::string("field \"") + key + "\" is " + std::to_string(value) + ", it must be positive");
}

Status read_sizes(ConfigReader& c, const Habits& habits, ModelRecord* m, BlockSpec* b) {
  NWC_TRY(c.require("vocab_size", &m->vocab_size));
  NWC_TRY(c.require("hidden_size", &m->hidden_size));
  NWC_TRY(c.require("intermediate_size", &b->intermediate_size));
  NWC_TRY(c.require("num_hidden_layers", &m->num_layers));
  NWC_TRY(c.require("num_attention_heads", &b->num_heads));
  b->num_kv_heads = b->num_heads;
  NWC_TRY(c.get("num_key_value_heads", &b->num_kv_heads));
  b->head_dim = m->hidden_size / b->num_heads;
  NWC_TRY(c.get("head_dim", &b->head_dim));
  m->max_positions = habits.max_positions;
  NWC_TRY(c.get("max_position_embeddings", &m->max_positions));
  b->norm_eps = habits.eps;
  NWC_TRY(c.get(habits.eps_key, &b->norm_eps));
  m->tied_embeddings = habits.tied;
  return c.get("tie_word_embeddings", &m->tied_embeddings);
}

Status read_activation(ConfigReader& c, const Habits& habits, BlockSpec* b) {
  std::string name = habits.activation;
  NWC_TRY(c.get(habits.activation_key, &name));
  constexpr std::pair<const char*, MlpActivation> kKnown[] = {
      {"silu", MlpActivation::kSilu},
      {"swish", MlpActivation::kSilu},
      {"gelu", MlpActivation::kGelu},
      {"gelu_pytorch_tanh", MlpActivation::kGeluTanh},
      {"gelu_new", MlpActivation::kGeluTanh},
      {"gelu_fast", MlpActivation::kGeluTanh},
      {"relu", MlpActivation::kRelu},
      {"relu2", MlpActivation::kRelu2},
      {"quick_gelu", MlpActivation::kQuickGelu},
  };
  for (const auto& [known, activation] : kKnown) {
    if (name != known) continue;
    b->activation = activation;
    return {};
  }
  return unsupported(std::string("\"") + habits.activation_key + "\" is \"" + name +
                     "\", an activation that the engine does not run");
}

/// The window that the configuration names; 0: none.
Status read_window(ConfigReader& c, uint32_t fallback, uint32_t* window) {
  *window = c.has("sliding_window") ? 0 : fallback;
  if (c.find("sliding_window") == nullptr) return {};
  NWC_TRY(c.get("sliding_window", window));
  return *window != 0 ? Status() : corrupt("field \"sliding_window\" is 0: a token has to see itself");
}

/// For each layer: does it slide? From "layer_types" where that is there.
template <typename F>
Status read_layer_types(ConfigReader& c, uint32_t layers, uint32_t window, const F& fallback,
                        std::vector<bool>* slides) {
  const Json* types = c.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != layers))
    return corrupt("field \"layer_types\" must be a list with an entry for each of the " + std::to_string(layers) +
                   " layers");
  for (uint32_t l = 0; l < layers; ++l) {
    if (types == nullptr) {
      slides->push_back(fallback(l));
      continue;
    }
    const Json& type = (*types)[l];
    if (type != kFull && type != kSliding)
      return unsupported("\"layer_types\" has a layer of type " + short_json(type));
    if (type == kSliding && window == 0)
      return unsupported("\"layer_types\" has a layer of type sliding_attention, but there is no \"sliding_window\"");
    slides->push_back(type == kSliding);
  }
  return {};
}

/// Layers of `block`, those that slide with the window. A window that no text leaves is none.
Status set_windows(const BlockSpec& block, const std::vector<bool>& slides, uint32_t window, ModelRecord* m) {
  std::vector<BlockSpec> layers(m->num_layers, block);
  for (uint32_t l = 0; l < m->num_layers; ++l) layers[l].window = slides[l] && window < m->max_positions ? window : 0;
  return set_layers(layers, m);
}

Status check_layers(uint32_t layers) {
  return layers <= kMaxModelLayers ? Status()
                                   : limit_error("field \"num_hidden_layers\" is " + std::to_string(layers) +
                                                 ", the limit is " + std::to_string(kMaxModelLayers));
}

/// Sizes, biases, activation, rotary positions: what most families share.
Status read_common(ConfigReader& c, const Habits& habits, ModelRecord* m, BlockSpec* b) {
  NWC_TRY(read_sizes(c, habits, m, b));
  NWC_TRY(check_layers(m->num_layers));
  NWC_TRY(read_activation(c, habits, b));
  bool attention_bias = false;
  NWC_TRY(c.get("attention_bias", &attention_bias));
  b->qkv_bias = b->output_bias = attention_bias;
  NWC_TRY(c.get("mlp_bias", &b->mlp_bias));
  return read_rope(c, kFull, m, b);
}

Status read_llama(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, Habits(), m, &b));
  bool used = true;
  NWC_TRY(c.get("use_sliding_window", &used));
  uint32_t window = 0;
  NWC_TRY(read_window(c, 0, &window));
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t) { return used && window != 0; }, &slides));
  return set_windows(b, slides, window, m);
}

/// Every layer slides.
Status read_windowed(ConfigReader& c, const Habits& habits, uint32_t window_default, uint32_t kv_heads_default,
                     ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, habits, m, &b));
  if (kv_heads_default != 0 && !c.has("num_key_value_heads")) b.num_kv_heads = kv_heads_default;
  uint32_t window = 0;
  NWC_TRY(read_window(c, window_default, &window));
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t) { return window != 0; }, &slides));
  return set_windows(b, slides, window, m);
}

Status read_mistral(ConfigReader& c, ModelRecord* m) { return read_windowed(c, {.max_positions = 131072}, 4096, 8, m); }
Status read_ministral3(ConfigReader& c, ModelRecord* m) {
  return read_windowed(c, {.max_positions = 262144, .eps = 1e-5f}, 0, 8, m);
}
Status read_phi3(ConfigReader& c, ModelRecord* m) {
  c.find("original_max_position_embeddings");
  return read_windowed(c, {.max_positions = 4096, .eps = 1e-5f}, 0, 0, m);
}

/// Qwen 2 and 3: the layers from max_window_layers on slide, if any do.
Status read_qwen(ConfigReader& c, bool qwen3, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 32768}, m, &b));
  if (qwen3) {
    b.qk_norm = QkNorm::kPerHead;
    if (!c.has("head_dim")) b.head_dim = 128;
  } else {
    b.qkv_bias = true;
    b.output_bias = false;
  }
  bool used = false;
  NWC_TRY(c.get("use_sliding_window", &used));
  uint32_t window = 0, first = 28;
  NWC_TRY(c.get("max_window_layers", &first));
  if (used) NWC_TRY(read_window(c, 4096, &window));
  c.find("sliding_window");
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t l) { return window != 0 && l >= first; }, &slides));
  return set_windows(b, slides, window, m);
}
Status read_qwen2(ConfigReader& c, ModelRecord* m) { return read_qwen(c, false, m); }
Status read_qwen3(ConfigReader& c, ModelRecord* m) { return read_qwen(c, true, m); }

/// What the configurations of mixtures have in common. An expert is as wide as the key says, or else `width`.
Status read_experts(ConfigReader& c, const char* width_key, const ExpertSpec& defaults, BlockSpec* b) {
  ExpertSpec& e = b->experts;
  e = defaults;
  e.intermediate_size = b->intermediate_size;
  for (const char* count : {"num_experts", "num_local_experts"}) NWC_TRY(c.get(count, &e.num_experts));
  NWC_TRY(c.get("num_experts_per_tok", &e.per_token));
  if (width_key != nullptr) NWC_TRY(c.get(width_key, &e.intermediate_size));
  NWC_TRY(c.get("norm_topk_prob", &e.normalized));
  for (const char* training_only : {"router_aux_loss_coef", "output_router_logits", "router_jitter_noise"})
    c.find(training_only);
  return {};
}

Status read_mixtral(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 131072, .eps = 1e-5f}, m, &b));
  if (!c.has("num_key_value_heads")) b.num_kv_heads = 8;
  NWC_TRY(read_experts(c, nullptr, {.num_experts = 8, .per_token = 2, .normalized = true}, &b));
  uint32_t window = 0;
  NWC_TRY(read_window(c, 0, &window));
  return set_windows(b, std::vector<bool>(m->num_layers, window != 0), window, m);
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
    if (!c.has("moe_intermediate_size")) b.experts.intermediate_size = 768;
  } else {
    b.qkv_bias = true;
    NWC_TRY(c.get("qkv_bias", &b.qkv_bias));
    b.output_bias = false;
    NWC_TRY(read_experts(c, "moe_intermediate_size", {.num_experts = 60, .per_token = 4}, &b));
    if (!c.has("moe_intermediate_size")) b.experts.intermediate_size = 1408;
    b.experts.shared_gate = true;
    b.experts.shared_intermediate_size = 5632;
    NWC_TRY(c.get("shared_expert_intermediate_size", &b.experts.shared_intermediate_size));
  }
  std::vector<bool> dense;
  NWC_TRY(read_dense_layers(c, m->num_layers, &dense));
  const bool any_dense = std::find(dense.begin(), dense.end(), true) != dense.end();
  if (any_dense && b.experts.shared_intermediate_size != 0)
    return unsupported("\"mlp_only_layers\" or \"decoder_sparse_step\": dense layers beside shared experts");
  bool used = false;
  NWC_TRY(c.get("use_sliding_window", &used));
  uint32_t window = 0, first = 28;
  NWC_TRY(c.get("max_window_layers", &first));
  if (used) NWC_TRY(read_window(c, 4096, &window));
  c.find("sliding_window");
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t l) { return window != 0 && (qwen3 || l >= first); }, &slides));
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
Status read_qwen2_moe(ConfigReader& c, ModelRecord* m) { return read_qwen_moe(c, false, m); }
Status read_qwen3_moe(ConfigReader& c, ModelRecord* m) { return read_qwen_moe(c, true, m); }

Status read_olmoe(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.max_positions = 4096, .eps = 1e-5f}, m, &b));
  b.qk_norm = QkNorm::kWhole;
  NWC_TRY(read_experts(c, nullptr, {.num_experts = 64, .per_token = 8}, &b));
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

Status read_gemma(ConfigReader& c, bool gemma3, ModelRecord* m) {
  const Habits habits{.tied = true,
                      .max_positions = gemma3 ? 131072u : 8192u,
                      .activation_key = "hidden_activation",
                      .activation = "gelu_pytorch_tanh"};
  BlockSpec b;
  if (gemma3) b.rope.theta = 1000000;
  NWC_TRY(read_common(c, habits, m, &b));
  c.find("hidden_act");  // older files have both, and hidden_activation counts
  if (!c.has("head_dim")) b.head_dim = 256;
  b.norm_one_plus = true;
  b.norm_after = true;
  if (gemma3) b.qk_norm = QkNorm::kPerHead;
  float scalar = 256;
  NWC_TRY(c.get("query_pre_attn_scalar", &scalar));
  if (!(scalar > 0)) return not_positive("query_pre_attn_scalar", scalar);
  b.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(scalar)));
  b.attention_softcap = gemma3 ? 0.0f : c.has("attn_logit_softcapping") ? 0.0f : 50.0f;
  NWC_TRY(c.get("attn_logit_softcapping", &b.attention_softcap));
  m->ends.logit_softcap = gemma3 ? 0.0f : c.has("final_logit_softcapping") ? 0.0f : 30.0f;
  NWC_TRY(c.get("final_logit_softcapping", &m->ends.logit_softcap));
  bool bidirectional = false;
  NWC_TRY(c.get("use_bidirectional_attention", &bidirectional));
  b.causal = !bidirectional;
  m->ends.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(m->hidden_size)));

  uint32_t window = 0, pattern = gemma3 ? 6 : 2;
  NWC_TRY(read_window(c, 4096, &window));
  NWC_TRY(c.get("_sliding_window_pattern", &pattern));
  NWC_TRY(c.get("sliding_window_pattern", &pattern));
  if (pattern == 0) return corrupt("field \"sliding_window_pattern\" is 0");
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t l) { return (l + 1) % pattern != 0; }, &slides));
  BlockSpec local = b;
  if (gemma3) {
    local.rope = RopeSpec();
    if (c.find("rope_parameters") != nullptr && c.find("rope_parameters")->contains(kSliding)) {
      NWC_TRY(read_rope(c, kSliding, m, &local));
    } else {
      local.rope.theta = 10000;
    }
    NWC_TRY(c.get("rope_local_base_freq", &local.rope.theta));
  }
  local.window = window < m->max_positions ? window : 0;
  std::vector<BlockSpec> layers;
  for (uint32_t l = 0; l < m->num_layers; ++l) layers.push_back(slides[l] ? local : b);
  return set_layers(layers, m);
}
Status read_gemma2(ConfigReader& c, ModelRecord* m) { return read_gemma(c, false, m); }
Status read_gemma3(ConfigReader& c, ModelRecord* m) { return read_gemma(c, true, m); }

Status read_smollm3(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  b.rope.theta = 2000000;
  NWC_TRY(read_common(c, {.tied = true, .max_positions = 32768}, m, &b));
  if (!c.has("num_key_value_heads")) b.num_kv_heads = 4;
  bool used = false;
  uint32_t window = 0, interval = 4;
  NWC_TRY(c.get("use_sliding_window", &used));
  NWC_TRY(c.get("no_rope_layer_interval", &interval));
  if (interval == 0) return corrupt("field \"no_rope_layer_interval\" is 0");
  if (used) NWC_TRY(read_window(c, 0, &window));
  c.find("sliding_window");
  const Json* rotates = c.find("no_rope_layers");  // 1: the layer has rotary positions, in spite of the name
  if (rotates != nullptr && (!rotates->is_array() || rotates->size() != m->num_layers))
    return corrupt("field \"no_rope_layers\" must be a list with an entry for each layer");
  const auto rotary = [&](uint32_t l) {
    return rotates != nullptr ? as_u64((*rotates)[l]).value_or(0) != 0 : (l + 1) % interval != 0;
  };
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [&](uint32_t l) { return window != 0 && rotary(l); }, &slides));
  std::vector<BlockSpec> layers(m->num_layers, b);
  for (uint32_t l = 0; l < m->num_layers; ++l) {
    if (!rotary(l)) layers[l].positions = Positions::kNone;
    if (slides[l] && window != 0 && window < m->max_positions) layers[l].window = window;
  }
  return set_layers(layers, m);
}

Status read_olmo2(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_common(c, {.eps = 1e-5f}, m, &b));
  b.norm_before = false;
  b.norm_after = true;
  b.qk_norm = QkNorm::kWhole;
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

/// OLMo 2 with windows: layers that slide have plain rotary positions, whatever scales those of the others.
Status read_olmo3(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  b.rope.theta = 500000;
  NWC_TRY(read_common(c, {.eps = 1e-5f}, m, &b));
  b.norm_before = false;
  b.norm_after = true;
  b.qk_norm = QkNorm::kWhole;
  uint32_t window = 0;
  NWC_TRY(read_window(c, 4096, &window));
  std::vector<bool> slides;
  NWC_TRY(read_layer_types(
      c, m->num_layers, window, [](uint32_t l) { return (l + 1) % 4 != 0; }, &slides));
  BlockSpec local = b;
  local.rope = RopeSpec();
  local.rope.theta = b.rope.theta;
  const Json* rope = c.find("rope_parameters");
  if (rope != nullptr && rope->contains(kSliding)) NWC_TRY(read_rope(c, kSliding, m, &local));
  local.window = window < m->max_positions ? window : 0;
  std::vector<BlockSpec> layers;
  for (uint32_t l = 0; l < m->num_layers; ++l) layers.push_back(slides[l] ? local : b);
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

Status read_starcoder2(ConfigReader& c, ModelRecord* m) {
  const Habits habits{
      .tied = true, .max_positions = 4096, .eps_key = "norm_epsilon", .eps = 1e-5f, .activation = "gelu_pytorch_tanh"};
  BlockSpec b;
  NWC_TRY(read_common(c, habits, m, &b));
  if (!c.has("num_key_value_heads")) b.num_kv_heads = 2;
  bool bias = true;
  NWC_TRY(c.get("use_bias", &bias));
  b.qkv_bias = b.output_bias = b.mlp_bias = bias;
  b.norm = NormKind::kLayer;
  b.norm_bias = true;
  b.gated = false;
  uint32_t window = 0;
  NWC_TRY(read_window(c, 0, &window));
  return set_windows(b, std::vector<bool>(m->num_layers, window != 0), window, m);
}

Status read_gpt_neox(ConfigReader& c, ModelRecord* m) {
  const Habits habits{.eps_key = "layer_norm_eps", .eps = 1e-5f, .activation = "gelu"};
  float share = 0.25f;  // the older names of the rotary settings
  NWC_TRY(c.get("rotary_pct", &share));
  BlockSpec b;
  NWC_TRY(c.get("rotary_emb_base", &b.rope.theta));
  NWC_TRY(read_common(c, habits, m, &b));
  if (!(share > 0) || share > 1) {
    return corrupt("field \"rotary_pct\" is " + std::to_string(share) + ", it must be above 0 and at most 1");
  }
  if (b.rope.dims == 0) b.rope.dims = static_cast<uint32_t>(static_cast<float>(b.head_dim) * share);
  bool bias = true, parallel = true;
  NWC_TRY(c.get("attention_bias", &bias));
  NWC_TRY(c.get("use_parallel_residual", &parallel));
  b.qkv_bias = b.output_bias = bias;
  b.mlp_bias = true;
  b.norm = NormKind::kLayer;
  b.norm_bias = true;
  b.gated = false;
  b.parallel = parallel ? Parallel::kOwnNorm : Parallel::kNone;
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

Status read_gpt2(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(c.require("vocab_size", &m->vocab_size));
  NWC_TRY(c.require("n_embd", &m->hidden_size));
  NWC_TRY(c.require("n_layer", &m->num_layers));
  NWC_TRY(check_layers(m->num_layers));
  NWC_TRY(c.require("n_head", &b.num_heads));
  m->max_positions = 1024;
  NWC_TRY(c.get("n_positions", &m->max_positions));
  c.find("n_ctx");  // older files say it twice
  b.num_kv_heads = b.num_heads;
  b.head_dim = m->hidden_size / b.num_heads;
  b.intermediate_size = 4 * std::min(m->hidden_size, 1u << 20);
  NWC_TRY(c.get("n_inner", &b.intermediate_size));
  b.norm_eps = 1e-5f;
  NWC_TRY(c.get("layer_norm_epsilon", &b.norm_eps));
  NWC_TRY(read_activation(c, {.activation_key = "activation_function", .activation = "gelu_new"}, &b));
  bool scaled = true, by_layer = false;
  NWC_TRY(c.get("scale_attn_weights", &scaled));
  NWC_TRY(c.get("scale_attn_by_inverse_layer_idx", &by_layer));
  c.find("reorder_and_upcast_attn");  // only the order of rounding
  if (by_layer) return unsupported("\"scale_attn_by_inverse_layer_idx\" is true, which the engine does not run");
  if (!scaled) b.attention_scale = 1;
  m->tied_embeddings = true;
  NWC_TRY(c.get("tie_word_embeddings", &m->tied_embeddings));
  b.positions = Positions::kNone;
  m->ends.position_rows = m->max_positions;
  b.norm = NormKind::kLayer;
  b.norm_bias = true;
  b.gated = false;
  b.qkv_bias = b.output_bias = b.mlp_bias = true;
  return set_layers(std::vector<BlockSpec>(m->num_layers, b), m);
}

SourceForm plain(Role) { return SourceForm::kPlain; }
SourceForm stacked(Role role) { return of_expert(role) ? SourceForm::kStacked : SourceForm::kPlain; }
SourceForm gpt_oss_form(Role role) {
  if (role == Role::kExpertGateUp) return SourceForm::kStackedPairs;
  if (role == Role::kExpertDown) return SourceForm::kStackedTransposed;
  return role == Role::kExpertGateUpBias ? SourceForm::kPairs : SourceForm::kPlain;
}
SourceForm gpt2_form(Role role) {
  const bool linear = role == Role::kQkv || role == Role::kOutput || role == Role::kUp || role == Role::kDown;
  return linear ? SourceForm::kTransposed : SourceForm::kPlain;
}
SourceForm neox_form(Role role) {
  return role == Role::kQkv || role == Role::kQkvBias ? SourceForm::kQkvByHead : SourceForm::kPlain;
}

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", names_of_llama, read_llama, plain},
    {"MistralForCausalLM", "mistral", names_of_llama, read_mistral, plain},
    {"Ministral3ForCausalLM", "ministral3", names_of_llama, read_ministral3, plain},
    {"Qwen2ForCausalLM", "qwen2", names_of_qk_norms, read_qwen2, plain},
    {"Qwen3ForCausalLM", "qwen3", names_of_qk_norms, read_qwen3, plain},
    {"MixtralForCausalLM", "mixtral", names_of_mixtral, read_mixtral, plain},
    {"Qwen2MoeForCausalLM", "qwen2_moe", names_of_qwen2_moe, read_qwen2_moe, plain},
    {"Qwen3MoeForCausalLM", "qwen3_moe", names_of_qwen3_moe, read_qwen3_moe, plain},
    {"OlmoeForCausalLM", "olmoe", names_of_qwen3_moe, read_olmoe, plain},
    {"Gemma2ForCausalLM", "gemma2", names_of_gemma, read_gemma2, plain},
    {"Gemma3ForCausalLM", "gemma3_text", names_of_gemma, read_gemma3, plain},
    {"Phi3ForCausalLM", "phi3", names_of_phi3, read_phi3, plain},
    {"SmolLM3ForCausalLM", "smollm3", names_of_llama, read_smollm3, plain},
    {"Olmo2ForCausalLM", "olmo2", names_of_olmo2, read_olmo2, plain},
    {"Olmo3ForCausalLM", "olmo3", names_of_olmo2, read_olmo3, plain},
    {"GraniteForCausalLM", "granite", names_of_llama, read_granite_dense, plain},
    {"GraniteMoeForCausalLM", "granitemoe", names_of_granite_moe, read_granite_moe, stacked},
    {"GraniteMoeSharedForCausalLM", "granitemoeshared", names_of_granite_moe, read_granite_moe_shared, stacked},
    {"GptOssForCausalLM", "gpt_oss", names_of_gpt_oss, read_gpt_oss, gpt_oss_form},
    {"Starcoder2ForCausalLM", "starcoder2", names_of_starcoder2, read_starcoder2, plain},
    {"GPTNeoXForCausalLM", "gpt_neox", names_of_gpt_neox, read_gpt_neox, neox_form},
    {"GPT2LMHeadModel", "gpt2", names_of_gpt2, read_gpt2, gpt2_form},
};

}  // namespace

Status ConfigReader::require(const char* key, uint32_t* out) {
  NWC_TRY(get(key, out));
  if (*out != 0) return {};
  return corrupt(std::string("field \"") + key + (has(key) ? "\" is 0, it must be" : "\" is missing, it must be") +
                 " a positive integer");
}

std::span<const Family> hf_families() { return kFamilies; }

const Family* find_family(const std::string& architecture, const std::string& model_type) {
  for (const Family& family : kFamilies) {
    if (architecture.empty() ? model_type == family.model_type : architecture == family.architecture) return &family;
  }
  return nullptr;
}

std::string known_architectures() {
  std::string text;
  for (const Family& family : kFamilies) text += (text.empty() ? "" : ", ") + std::string(family.architecture);
  return text;
}

Status set_layers(const std::vector<BlockSpec>& layers, ModelRecord* model) {
  model->blocks.clear();
  model->block_kind.clear();
  for (const BlockSpec& layer : layers) {
    auto kind = std::find(model->blocks.begin(), model->blocks.end(), layer);
    if (kind == model->blocks.end()) {
      if (model->blocks.size() == 16) return unsupported("more than 16 kinds of blocks");
      kind = model->blocks.insert(kind, layer);
    }
    model->block_kind.push_back(static_cast<uint8_t>(kind - model->blocks.begin()));
  }
  if (model->blocks.size() == 1) model->block_kind.clear();
  return {};
}

}  // namespace nwc
