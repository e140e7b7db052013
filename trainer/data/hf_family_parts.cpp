#include "trainer/data/hf_family_parts.h"

#include <algorithm>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_rope.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

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

}  // namespace

Status not_positive(const char* key, float value) {
  return corrupt(std::string("field \"") + key + "\" is " + std::to_string(value) + ", it must be positive");
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

Status read_window(ConfigReader& c, uint32_t fallback, uint32_t* window) {
  *window = c.has("sliding_window") ? 0 : fallback;
  if (c.find("sliding_window") == nullptr) return {};
  NWC_TRY(c.get("sliding_window", window));
  return *window != 0 ? Status() : corrupt("field \"sliding_window\" is 0: a token has to see itself");
}

Status read_layer_types(ConfigReader& c, uint32_t layers, uint32_t window,
                        const std::function<bool(uint32_t layer)>& fallback, std::vector<bool>* slides) {
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
    if (type != kFullAttention && type != kSlidingAttention)
      return unsupported("\"layer_types\" has a layer of type " + short_json(type));
    if (type == kSlidingAttention && window == 0)
      return unsupported("\"layer_types\" has a layer of type sliding_attention, but there is no \"sliding_window\"");
    slides->push_back(type == kSlidingAttention);
  }
  return {};
}

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

Status read_common(ConfigReader& c, const Habits& habits, ModelRecord* m, BlockSpec* b) {
  NWC_TRY(read_sizes(c, habits, m, b));
  NWC_TRY(check_layers(m->num_layers));
  NWC_TRY(read_activation(c, habits, b));
  bool attention_bias = false;
  NWC_TRY(c.get("attention_bias", &attention_bias));
  b->qkv_bias = b->output_bias = attention_bias;
  NWC_TRY(c.get("mlp_bias", &b->mlp_bias));
  return read_rope(c, kFullAttention, m, b);
}

Status read_qwen_windows(ConfigReader& c, bool all, uint32_t layers, uint32_t* window, std::vector<bool>* slides) {
  bool used = false;
  uint32_t first = 28;
  NWC_TRY(c.get("use_sliding_window", &used));
  NWC_TRY(c.get("max_window_layers", &first));
  if (used) NWC_TRY(read_window(c, 4096, window));
  c.find("sliding_window");
  return read_layer_types(
      c, layers, *window, [&](uint32_t l) { return *window != 0 && (all || l >= first); }, slides);
}

}  // namespace nwc
