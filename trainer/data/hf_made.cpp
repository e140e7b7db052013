#include "trainer/data/hf_made.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "trainer/data/hf_config.h"
#include "trainer/data/hf_write.h"
#include "trainer/data/model_compare.h"
#include "trainer/data/model_kinds.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

// The shortest decimal that reads back as the same float: 1e-05, not 9.999999747378752e-06.
double shortest(float value) {
  char text[32] = {};
  const std::to_chars_result end = std::to_chars(text, text + sizeof text - 1, value);
  return end.ec == std::errc() ? std::strtod(text, nullptr) : static_cast<double>(value);
}

Json ids_json(const std::vector<uint32_t>& ids) { return ids.size() == 1 ? Json(ids[0]) : Json(ids); }

Json floats_json(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float value : values) list.push_back(shortest(value));
  return list;
}

Json scaling_json(const RopeSpec& rope) {
  switch (rope.scaling) {
    case RopeScaling::kNone: return nullptr;
    case RopeScaling::kLinear: return {{"rope_type", "linear"}, {"factor", shortest(rope.factor)}};
    case RopeScaling::kDynamic: return {{"rope_type", "dynamic"}, {"factor", shortest(rope.factor)}};
    case RopeScaling::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", shortest(rope.factor)},
              {"low_freq_factor", shortest(rope.low_freq_factor)},
              {"high_freq_factor", shortest(rope.high_freq_factor)},
              {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeScaling::kYarn:
      return {{"rope_type", "yarn"},
              {"factor", shortest(rope.factor)},
              {"beta_fast", shortest(rope.beta_fast)},
              {"beta_slow", shortest(rope.beta_slow)},
              {"truncate", rope.truncate},
              {"attention_factor", shortest(rope.attention_factor)},
              {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeScaling::kLong:
      return {{"rope_type", "longrope"},
              {"short_factor", floats_json(rope.short_factors)},
              {"long_factor", floats_json(rope.long_factors)},
              {"attention_factor", shortest(rope.attention_factor)},
              {"original_max_position_embeddings", rope.original_max_positions}};
  }
  return nullptr;
}

/// The first block that has, or has not, a window; that of the first layer where there is none.
const BlockSpec& block_of(const ModelRecord& m, bool windowed) {
  const BlockSpec* found = find_block(m, windowed);
  return found != nullptr ? *found : m.block();
}

void add_windows(const ModelRecord& m, bool by_layer, Json* json) {
  const uint32_t window = block_of(m, true).window;
  (*json)["sliding_window"] = window != 0 ? Json(window) : Json(nullptr);
  if (!by_layer) return;
  Json types = Json::array();
  for (uint32_t l = 0; l < m.num_layers; ++l)
    types.push_back(m.block(l).window != 0 ? "sliding_attention" : "full_attention");
  (*json)["layer_types"] = types;
}

void add_gemma(const ModelRecord& m, Json* json) {
  const BlockSpec& b = m.block();
  json->erase("hidden_act");
  (*json)["hidden_activation"] = "gelu_pytorch_tanh";
  // transformers takes a whole number only; what is read back shows whether it is one.
  const double scale = static_cast<double>(score_scale(b));
  (*json)["query_pre_attn_scalar"] = static_cast<uint32_t>(std::clamp(std::round(1 / (scale * scale)), 1.0, 1e9));
  (*json)["attn_logit_softcapping"] = b.attention_softcap != 0 ? Json(shortest(b.attention_softcap)) : Json(nullptr);
  (*json)["final_logit_softcapping"] = m.ends.logit_softcap != 0 ? Json(shortest(m.ends.logit_softcap)) : Json(nullptr);
  add_windows(m, true, json);
  // Every layer needs a window to be said to slide, and none forgets where the window is the whole context.
  if ((*json)["sliding_window"].is_null()) (*json)["sliding_window"] = m.max_positions;
}

void add_gemma3(const ModelRecord& m, Json* json) {
  add_gemma(m, json);
  const BlockSpec& local = block_of(m, true);
  if (local.window != 0) (*json)["rope_local_base_freq"] = shortest(local.rope.theta);
}

void add_phi3(const ModelRecord& m, Json* json) {
  const BlockSpec& b = m.block();
  add_windows(m, false, json);
  if (b.rope.scaling == RopeScaling::kLong) (*json)["original_max_position_embeddings"] = b.rope.original_max_positions;
}

void add_ministral3(const ModelRecord& m, Json* json) {
  const BlockSpec& b = m.block();
  add_windows(m, false, json);
  Json rope = scaling_json(b.rope);
  if (!rope.is_object()) return;
  rope["rope_theta"] = shortest(b.rope.theta);
  rope["llama_4_scaling_beta"] = shortest(b.temperature_beta);
  (*json)["rope_parameters"] = rope;
  json->erase("rope_scaling");
  json->erase("rope_theta");
}

void add_qwen2(const ModelRecord& m, Json* json) {
  add_windows(m, true, json);
  (*json)["use_sliding_window"] = !(*json)["sliding_window"].is_null();
}

void add_smollm3(const ModelRecord& m, Json* json) {
  Json rotates = Json::array();
  for (uint32_t l = 0; l < m.num_layers; ++l) rotates.push_back(m.block(l).positions == Positions::kRotary ? 1 : 0);
  (*json)["no_rope_layers"] = rotates;
}

void add_granite(const ModelRecord& m, Json* json) {
  (*json)["embedding_multiplier"] = shortest(m.ends.embedding_scale);
  (*json)["residual_multiplier"] = shortest(m.block().residual_scale);
  (*json)["attention_multiplier"] = shortest(score_scale(m.block()));
  (*json)["logits_scaling"] = shortest(1 / m.ends.logit_scale);
}

void add_starcoder2(const ModelRecord& m, Json* json) {
  json->erase("rms_norm_eps");
  (*json)["norm_epsilon"] = shortest(m.block().norm_eps);
  (*json)["hidden_act"] = "gelu_pytorch_tanh";
  (*json)["use_bias"] = m.block().mlp_bias;
  add_windows(m, false, json);
}

void add_gpt_neox(const ModelRecord& m, Json* json) {
  const BlockSpec& b = m.block();
  json->erase("rms_norm_eps");
  json->erase("num_key_value_heads");
  (*json)["layer_norm_eps"] = shortest(b.norm_eps);
  (*json)["hidden_act"] = "gelu";
  (*json)["use_parallel_residual"] = b.parallel == Parallel::kOwnNorm;
  (*json)["rotary_pct"] = static_cast<double>(b.rope_dims()) / b.head_dim;
  (*json)["rotary_emb_base"] = shortest(b.rope.theta);
  json->erase("partial_rotary_factor");
}

void make_gpt2(const ModelRecord& m, Json* json) {
  const BlockSpec& b = m.block();
  *json = {{"vocab_size", m.vocab_size},
           {"n_embd", m.hidden_size},
           {"n_layer", m.num_layers},
           {"n_head", b.num_heads},
           {"n_positions", m.max_positions},
           {"n_ctx", m.max_positions},
           {"n_inner", b.intermediate_size},
           {"layer_norm_epsilon", shortest(b.norm_eps)},
           {"activation_function", "gelu_new"},
           {"scale_attn_weights", true},
           {"tie_word_embeddings", m.tied_embeddings}};
}

// Without an entry for each kind of layer, transformers takes another base for those that slide.
void add_olmo3(const ModelRecord& m, Json* json) {
  add_windows(m, true, json);
  const RopeSpec &full = block_of(m, false).rope, &local = block_of(m, true).rope;
  Json scaled = full.scaling == RopeScaling::kNone ? Json{{"rope_type", "default"}} : scaling_json(full);
  scaled["rope_theta"] = shortest(full.theta);
  (*json)["rope_parameters"] = {
      {"full_attention", scaled},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", shortest(local.theta)}}}};
  json->erase("rope_scaling");
  json->erase("rope_theta");
}
void add_mistral(const ModelRecord& m, Json* json) { add_windows(m, false, json); }

void add_experts(const ModelRecord& m, const char* count, const char* width, Json* json) {
  const ExpertSpec& e = m.block().experts;
  (*json)[count] = e.num_experts;
  (*json)["num_experts_per_tok"] = e.per_token;
  if (width != nullptr) (*json)[width] = e.intermediate_size;
}

void add_mixtral(const ModelRecord& m, Json* json) {
  add_experts(m, "num_local_experts", nullptr, json);
  add_windows(m, false, json);
}

void add_qwen_moe(const ModelRecord& m, Json* json) {
  const ExpertSpec& e = m.block().experts;
  add_experts(m, "num_experts", "moe_intermediate_size", json);
  (*json)["norm_topk_prob"] = e.normalized;
  (*json)["decoder_sparse_step"] = 1;
  (*json)["mlp_only_layers"] = Json::array();
  add_qwen2(m, json);
}

void add_qwen2_moe(const ModelRecord& m, Json* json) {
  add_qwen_moe(m, json);
  (*json)["qkv_bias"] = m.block().qkv_bias;
  (*json)["shared_expert_intermediate_size"] = m.block().experts.shared_intermediate_size;
}

void add_olmoe(const ModelRecord& m, Json* json) {
  add_experts(m, "num_experts", nullptr, json);
  (*json)["norm_topk_prob"] = m.block().experts.normalized;
}

void add_granite_moe(const ModelRecord& m, Json* json) {
  add_granite(m, json);
  add_experts(m, "num_local_experts", nullptr, json);
}

void add_granite_moe_shared(const ModelRecord& m, Json* json) {
  add_granite_moe(m, json);
  (*json)["shared_intermediate_size"] = m.block().experts.shared_intermediate_size;
}

void add_gpt_oss(const ModelRecord& m, Json* json) {
  add_experts(m, "num_local_experts", nullptr, json);
  (*json)["swiglu_limit"] = shortest(m.block().clamp);
  json->erase("mlp_bias");
  add_windows(m, true, json);
}

/// By model_type: the keys that only a family has.
constexpr std::pair<const char*, void (*)(const ModelRecord&, Json*)> kWriters[] = {
    {"mistral", add_mistral},
    {"ministral3", add_ministral3},
    {"qwen2", add_qwen2},
    {"qwen3", add_qwen2},
    {"gemma2", add_gemma},
    {"gemma3_text", add_gemma3},
    {"phi3", add_phi3},
    {"smollm3", add_smollm3},
    {"granite", add_granite},
    {"olmo3", add_olmo3},
    {"gpt2", make_gpt2},
    {"starcoder2", add_starcoder2},
    {"gpt_neox", add_gpt_neox},
    {"mixtral", add_mixtral},
    {"qwen2_moe", add_qwen2_moe},
    {"qwen3_moe", add_qwen_moe},
    {"olmoe", add_olmoe},
    {"granitemoe", add_granite_moe},
    {"granitemoeshared", add_granite_moe_shared},
    {"gpt_oss", add_gpt_oss},
};

bool has_role(const ModelRecord& model, Role role) { return !model.tensor_name(role).empty(); }

/// The model with the names of the family's tensors.
ModelRecord renamed(const ModelRecord& model, const Family& family) {
  ModelRecord other = model;
  other.names = family.names();
  return other;
}

/// The role under which a family has a tensor, and which part of it that is: some mixtures have gate and up in one.
std::pair<Role, uint32_t> held_role(const ModelRecord& model, const ModelRecord& other, Role role) {
  constexpr std::tuple<Role, Role, uint32_t> kJoined[] = {
      {Role::kGate, Role::kGateUp, 0},
      {Role::kUp, Role::kGateUp, 1},
      {Role::kExpertGate, Role::kExpertGateUp, 0},
      {Role::kExpertUp, Role::kExpertGateUp, 1},
  };
  for (const auto& [part, whole, number] : kJoined) {
    if (part == role && model.has_experts() && has_role(other, whole)) return {whole, number};
  }
  return {role, 0};
}

HfMade make_forms(const ModelRecord& model, const Family& family, bool one_plus) {
  const ModelRecord other = renamed(model, family);
  HfMade made;
  made.family = &family;
  for (const TensorName& name : model.names.empty() ? llama_names() : model.names) {
    const auto [role, part] = held_role(model, other, name.role);
    const bool of_layer = nwc::of_layer(role);
    const bool gain = role == Role::kFinalNorm || role == Role::kAttentionNorm || role == Role::kAttentionPostNorm ||
                      role == Role::kMlpNorm || role == Role::kMlpPostNorm || role == Role::kQNorm ||
                      role == Role::kKNorm;
    const auto pattern = std::find_if(other.names.begin(), other.names.end(),
                                      [role = role](const TensorName& n) { return n.role == role; });
    for (uint32_t l = 0; l < (of_layer ? model.num_layers : 1); ++l) {
      HeldForm form{.form = family.form(role), .heads = model.block(l).num_heads, .part = part};
      form.minus_one = gain && one_plus && !model.block(l).norm_one_plus;
      for (uint32_t e = 0; e < (of_expert(role) ? model.block(l).experts.num_experts : 1); ++e) {
        form.expert = is_stacked(form.form) ? e : 0;
        form.name = is_stacked(form.form) && pattern != other.names.end() ? stacked_name(pattern->pattern, l)
                                                                          : other.tensor_name(role, l, e);
        if (!form.name.empty()) made.tensors.emplace(model.tensor_name(name.role, l, e), form);
      }
    }
  }
  return made;
}

}  // namespace

std::string make_hf_config(const ModelRecord& m, const Family& family, const TokenizerRecord* tokenizer, Dtype dtype) {
  const BlockSpec& full = block_of(m, false);
  const BlockSpec& b = full.positions == Positions::kRotary ? full : m.block();
  Json json = {{"vocab_size", m.vocab_size},
               {"hidden_size", m.hidden_size},
               {"intermediate_size", b.intermediate_size},
               {"num_hidden_layers", m.num_layers},
               {"num_attention_heads", b.num_heads},
               {"num_key_value_heads", b.num_kv_heads},
               {"head_dim", b.head_dim},
               {"max_position_embeddings", m.max_positions},
               {"rms_norm_eps", shortest(b.norm_eps)},
               {"rope_theta", shortest(b.rope.theta)},
               {"rope_scaling", scaling_json(b.rope)},
               {"tie_word_embeddings", m.tied_embeddings},
               {"hidden_act", "silu"},
               {"attention_bias", b.qkv_bias && b.output_bias},
               {"mlp_bias", b.mlp_bias}};
  if (b.rope.dims != 0) json["partial_rotary_factor"] = static_cast<double>(b.rope.dims) / b.head_dim;
  for (const auto& [type, write] : kWriters) {
    if (std::strcmp(type, family.model_type) == 0) write(m, &json);
  }
  json["architectures"] = {family.architecture};
  json["model_type"] = family.model_type;
  json["torch_dtype"] = torch_dtype_name(dtype);
  json["pad_token_id"] = nullptr;  // the defaults of some families are beyond a small vocabulary
  if (!m.eos_ids.empty()) json["eos_token_id"] = ids_json(m.eos_ids);
  if (tokenizer != nullptr && tokenizer->bos_id != UINT32_MAX) json["bos_token_id"] = tokenizer->bos_id;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<HfMade> find_hf_family(const ModelRecord& model) {
  const Family* closest = nullptr;
  std::vector<std::string> fewest;
  for (const Family& family : hf_families()) {
    std::vector<std::string> differences;
    const ModelRecord other = renamed(model, family);
    for (const Role role : {Role::kQkv, Role::kGateUp, Role::kQ, Role::kUp}) {
      if (model.has_experts() && (role == Role::kGateUp || role == Role::kUp)) continue;  // are put together
      if (has_role(model, role) != has_role(other, role)) differences = {"projections that are one tensor or are not"};
    }
    const std::string config = make_hf_config(model, family, nullptr, Dtype::kF32);
    const Result<HfConfig> same =
        parse_hf_config({reinterpret_cast<const uint8_t*>(config.data()), config.size()}, nullptr);
    if (!same.ok()) continue;
    const std::vector<std::string> fields = model_differences(model, same->model);
    differences.insert(differences.end(), fields.begin(), fields.end());
    if (differences.empty()) return make_forms(model, family, same->model.block().norm_one_plus);
    if (closest == nullptr || differences.size() < fewest.size()) {
      closest = &family;
      fewest = std::move(differences);
    }
  }
  std::string text;
  for (const std::string& field : fewest) text += (text.empty() ? "" : ", ") + field;
  return unsupported("no architecture of transformers that is known here describes this model" +
                     (closest == nullptr
                          ? std::string()
                          : std::string(": ") + closest->architecture + " comes closest and lacks: " + text));
}

}  // namespace nwc
