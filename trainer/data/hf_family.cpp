#include "trainer/data/hf_family.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_family_encoders.h"
#include "trainer/data/hf_family_experts.h"
#include "trainer/data/hf_family_parts.h"
#include "trainer/data/hf_names.h"
#include "trainer/data/hf_rope.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

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
  uint32_t window = 0;
  std::vector<bool> slides;
  NWC_TRY(read_qwen_windows(c, false, m->num_layers, &window, &slides));
  return set_windows(b, slides, window, m);
}
Status read_qwen2(ConfigReader& c, ModelRecord* m) { return read_qwen(c, false, m); }
Status read_qwen3(ConfigReader& c, ModelRecord* m) { return read_qwen(c, true, m); }

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
    if (c.find("rope_parameters") != nullptr && c.find("rope_parameters")->contains(kSlidingAttention)) {
      NWC_TRY(read_rope(c, kSlidingAttention, m, &local));
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
  if (rope != nullptr && rope->contains(kSlidingAttention)) NWC_TRY(read_rope(c, kSlidingAttention, m, &local));
  local.window = window < m->max_positions ? window : 0;
  std::vector<BlockSpec> layers;
  for (uint32_t l = 0; l < m->num_layers; ++l) layers.push_back(slides[l] ? local : b);
  return set_layers(layers, m);
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
    {"GraniteMoeForCausalLM", "granitemoe", names_of_granite_moe, read_granite_moe, stacked_form},
    {"GraniteMoeSharedForCausalLM", "granitemoeshared", names_of_granite_moe, read_granite_moe_shared, stacked_form},
    {"GptOssForCausalLM", "gpt_oss", names_of_gpt_oss, read_gpt_oss, gpt_oss_form},
    {"Starcoder2ForCausalLM", "starcoder2", names_of_starcoder2, read_starcoder2, plain},
    {"GPTNeoXForCausalLM", "gpt_neox", names_of_gpt_neox, read_gpt_neox, neox_form},
    {"GPT2LMHeadModel", "gpt2", names_of_gpt2, read_gpt2, gpt2_form},
    {"BertModel", "bert", names_of_bert, read_bert, plain},
    {"BertForMaskedLM", "bert", names_of_bert, read_bert, plain},
    {"CLIPTextModelWithProjection", "clip_text_model", names_of_clip_text, read_clip_text, plain},
    {"CLIPTextModel", "clip_text_model", names_of_clip_text, read_clip_text, plain},
    {"CLIPVisionModelWithProjection", "clip_vision_model", names_of_clip_vision, read_clip_vision, plain},
    {"CLIPVisionModel", "clip_vision_model", names_of_clip_vision, read_clip_vision, plain},
    {"SiglipVisionModel", "siglip_vision_model", names_of_siglip_vision, read_siglip_vision, plain},
    {"ViTModel", "vit", names_of_vit, read_vit, plain},
    {"ViTForImageClassification", "vit", names_of_vit, read_vit, plain},
    {"Dinov2Model", "dinov2", names_of_dinov2, read_dinov2, plain},
    {"Dinov2WithRegistersModel", "dinov2_with_registers", names_of_dinov2, read_dinov2_registers, plain},
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
