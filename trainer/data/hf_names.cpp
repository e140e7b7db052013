#include "trainer/data/hf_names.h"

#include <algorithm>

namespace nwc {
namespace {

using Names = std::vector<TensorName>;

const std::string kLayer = "model.layers.{}.";

Names with(Names names, const Names& more) {
  for (const TensorName& name : more) {
    std::erase_if(names, [&](const TensorName& old) { return old.role == name.role; });
    names.push_back(name);
  }
  return names;
}

Names without(Names names, std::initializer_list<Role> roles) {
  std::erase_if(names,
                [&](const TensorName& n) { return std::find(roles.begin(), roles.end(), n.role) != roles.end(); });
  return names;
}

}  // namespace

void add(std::vector<TensorName>* names, const std::string& module, Role weight, Role bias) {
  names->push_back({weight, module + ".weight"});
  names->push_back({bias, module + ".bias"});
}

std::vector<TensorName> names_of_llama() { return {}; }

std::vector<TensorName> names_of_qk_norms() {
  return with(llama_names(),
              {{Role::kQNorm, kLayer + "self_attn.q_norm.weight"}, {Role::kKNorm, kLayer + "self_attn.k_norm.weight"}});
}

std::vector<TensorName> names_of_mixtral() {
  const std::string moe = kLayer + "block_sparse_moe.";
  return with(llama_names(), {{Role::kRouter, moe + "gate.weight"},
                              {Role::kExpertGate, moe + "experts.{}.w1.weight"},
                              {Role::kExpertUp, moe + "experts.{}.w3.weight"},
                              {Role::kExpertDown, moe + "experts.{}.w2.weight"}});
}

std::vector<TensorName> names_of_qwen3_moe() {
  return with(names_of_qk_norms(), {{Role::kRouter, kLayer + "mlp.gate.weight"},
                                    {Role::kExpertGate, kLayer + "mlp.experts.{}.gate_proj.weight"},
                                    {Role::kExpertUp, kLayer + "mlp.experts.{}.up_proj.weight"},
                                    {Role::kExpertDown, kLayer + "mlp.experts.{}.down_proj.weight"}});
}

std::vector<TensorName> names_of_qwen2_moe() {
  return with(names_of_qwen3_moe(), {{Role::kSharedGate, kLayer + "mlp.shared_expert_gate.weight"},
                                     {Role::kGate, kLayer + "mlp.shared_expert.gate_proj.weight"},
                                     {Role::kUp, kLayer + "mlp.shared_expert.up_proj.weight"},
                                     {Role::kDown, kLayer + "mlp.shared_expert.down_proj.weight"}});
}

std::vector<TensorName> names_of_granite_moe() {
  const std::string moe = kLayer + "block_sparse_moe.";
  return with(without(llama_names(), {Role::kGate, Role::kUp, Role::kGateBias, Role::kUpBias, Role::kDownBias}),
              {{Role::kRouter, moe + "router.layer.weight"},
               {Role::kExpertGateUp, moe + "input_linear.{}.weight"},
               {Role::kExpertDown, moe + "output_linear.{}.weight"},
               {Role::kGateUp, kLayer + "shared_mlp.input_linear.weight"},
               {Role::kDown, kLayer + "shared_mlp.output_linear.weight"}});
}

std::vector<TensorName> names_of_gpt_oss() {
  const std::string mlp = kLayer + "mlp.";
  return with(
      without(llama_names(), {Role::kGate, Role::kUp, Role::kDown, Role::kGateBias, Role::kUpBias, Role::kDownBias}),
      {{Role::kSinks, kLayer + "self_attn.sinks"},
       {Role::kRouter, mlp + "router.weight"},
       {Role::kRouterBias, mlp + "router.bias"},
       {Role::kExpertGateUp, mlp + "experts.{}.gate_up_proj"},
       {Role::kExpertDown, mlp + "experts.{}.down_proj"},
       {Role::kExpertGateUpBias, mlp + "experts.gate_up_proj_bias"},
       {Role::kExpertDownBias, mlp + "experts.down_proj_bias"}});
}

std::vector<TensorName> names_of_gemma() {
  return with(names_of_qk_norms(), {{Role::kAttentionPostNorm, kLayer + "post_attention_layernorm.weight"},
                                    {Role::kMlpNorm, kLayer + "pre_feedforward_layernorm.weight"},
                                    {Role::kMlpPostNorm, kLayer + "post_feedforward_layernorm.weight"}});
}

std::vector<TensorName> names_of_olmo2() { return without(names_of_gemma(), {Role::kAttentionNorm, Role::kMlpNorm}); }

std::vector<TensorName> names_of_phi3() {
  return with(
      without(llama_names(), {Role::kQ, Role::kK, Role::kV, Role::kGate, Role::kUp, Role::kQBias, Role::kKBias,
                              Role::kVBias, Role::kGateBias, Role::kUpBias}),
      {{Role::kQkv, kLayer + "self_attn.qkv_proj.weight"}, {Role::kGateUp, kLayer + "mlp.gate_up_proj.weight"}});
}

std::vector<TensorName> names_of_starcoder2() {
  Names names = without(llama_names(), {Role::kGate, Role::kGateBias});
  Names own = {{Role::kFinalNormBias, "model.norm.bias"},
               {Role::kAttentionNormBias, kLayer + "input_layernorm.bias"},
               {Role::kMlpNormBias, kLayer + "post_attention_layernorm.bias"}};
  add(&own, kLayer + "mlp.c_fc", Role::kUp, Role::kUpBias);
  add(&own, kLayer + "mlp.c_proj", Role::kDown, Role::kDownBias);
  return with(names, own);
}

std::vector<TensorName> names_of_gpt_neox() {
  const std::string layer = "gpt_neox.layers.{}.";
  Names names = {{Role::kEmbedding, "gpt_neox.embed_in.weight"}, {Role::kHead, "embed_out.weight"}};
  add(&names, "gpt_neox.final_layer_norm", Role::kFinalNorm, Role::kFinalNormBias);
  add(&names, layer + "input_layernorm", Role::kAttentionNorm, Role::kAttentionNormBias);
  add(&names, layer + "post_attention_layernorm", Role::kMlpNorm, Role::kMlpNormBias);
  add(&names, layer + "attention.query_key_value", Role::kQkv, Role::kQkvBias);
  add(&names, layer + "attention.dense", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "mlp.dense_h_to_4h", Role::kUp, Role::kUpBias);
  add(&names, layer + "mlp.dense_4h_to_h", Role::kDown, Role::kDownBias);
  return names;
}

std::vector<TensorName> names_of_gpt2() {
  const std::string layer = "transformer.h.{}.";
  Names names = {{Role::kEmbedding, "transformer.wte.weight"},
                 {Role::kPositions, "transformer.wpe.weight"},
                 {Role::kHead, "lm_head.weight"}};
  add(&names, "transformer.ln_f", Role::kFinalNorm, Role::kFinalNormBias);
  add(&names, layer + "ln_1", Role::kAttentionNorm, Role::kAttentionNormBias);
  add(&names, layer + "ln_2", Role::kMlpNorm, Role::kMlpNormBias);
  add(&names, layer + "attn.c_attn", Role::kQkv, Role::kQkvBias);
  add(&names, layer + "attn.c_proj", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "mlp.c_fc", Role::kUp, Role::kUpBias);
  add(&names, layer + "mlp.c_proj", Role::kDown, Role::kDownBias);
  return names;
}

}  // namespace nwc
