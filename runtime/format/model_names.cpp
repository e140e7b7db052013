// Names of roles and of tensors.
#include <algorithm>
#include <cmath>

#include "runtime/format/model_record.h"

namespace nwc {

const char* role_name(Role role) {
  switch (role) {
    case Role::kEmbedding: return "embedding";
    case Role::kPositions: return "position embedding";
    case Role::kFinalNorm: return "final norm";
    case Role::kFinalNormBias: return "final norm's bias";
    case Role::kHead: return "output head";
    case Role::kHeadBias: return "output head's bias";
    case Role::kTokenTypes: return "token types";
    case Role::kEmbeddingNorm: return "norm of the embedding";
    case Role::kEmbeddingNormBias: return "bias of the norm of the embedding";
    case Role::kPatch: return "patch embedding";
    case Role::kPatchBias: return "patch embedding's bias";
    case Role::kClassToken: return "class token";
    case Role::kRegisters: return "register tokens";
    case Role::kPooler: return "pooler";
    case Role::kPoolerBias: return "pooler's bias";
    case Role::kProjection: return "projection";
    case Role::kAttentionScale: return "scale of attention";
    case Role::kMlpScale: return "scale of the MLP";
    case Role::kPoolProbe: return "pooling head's query";
    case Role::kPoolQkv: return "pooling head's qkv";
    case Role::kPoolQkvBias: return "pooling head's qkv's bias";
    case Role::kPoolOutput: return "pooling head's attention output";
    case Role::kPoolOutputBias: return "pooling head's attention output's bias";
    case Role::kPoolNorm: return "pooling head's norm";
    case Role::kPoolNormBias: return "pooling head's norm's bias";
    case Role::kPoolUp: return "pooling head's up";
    case Role::kPoolUpBias: return "pooling head's up's bias";
    case Role::kPoolDown: return "pooling head's down";
    case Role::kPoolDownBias: return "pooling head's down's bias";
    case Role::kAttentionNorm: return "norm before attention";
    case Role::kAttentionNormBias: return "bias of the norm before attention";
    case Role::kAttentionPostNorm: return "norm after attention";
    case Role::kAttentionPostNormBias: return "bias of the norm after attention";
    case Role::kMlpNorm: return "norm before the MLP";
    case Role::kMlpNormBias: return "bias of the norm before the MLP";
    case Role::kMlpPostNorm: return "norm after the MLP";
    case Role::kMlpPostNormBias: return "bias of the norm after the MLP";
    case Role::kQ: return "q";
    case Role::kK: return "k";
    case Role::kV: return "v";
    case Role::kQkv: return "qkv";
    case Role::kQBias: return "q's bias";
    case Role::kKBias: return "k's bias";
    case Role::kVBias: return "v's bias";
    case Role::kQkvBias: return "qkv's bias";
    case Role::kQNorm: return "q's norm";
    case Role::kKNorm: return "k's norm";
    case Role::kOutput: return "attention output";
    case Role::kOutputBias: return "attention output's bias";
    case Role::kSinks: return "attention sinks";
    case Role::kGate: return "gate";
    case Role::kUp: return "up";
    case Role::kGateUp: return "gate and up";
    case Role::kDown: return "down";
    case Role::kGateBias: return "gate's bias";
    case Role::kUpBias: return "up's bias";
    case Role::kGateUpBias: return "gate's and up's bias";
    case Role::kDownBias: return "down's bias";
    case Role::kRouter: return "router";
    case Role::kRouterBias: return "router's bias";
    case Role::kSharedGate: return "shared expert's gate";
    case Role::kExpertGate: return "expert's gate";
    case Role::kExpertUp: return "expert's up";
    case Role::kExpertGateUp: return "expert's gate and up";
    case Role::kExpertDown: return "expert's down";
    case Role::kExpertGateUpBias: return "experts' gate's and up's bias";
    case Role::kExpertDownBias: return "experts' down's bias";
  }
  return nullptr;
}

const std::vector<TensorName>& llama_names() {
  static const std::vector<TensorName>* const names = new std::vector<TensorName>{
      {Role::kEmbedding, "model.embed_tokens.weight"},
      {Role::kFinalNorm, "model.norm.weight"},
      {Role::kHead, "lm_head.weight"},
      {Role::kAttentionNorm, "model.layers.{}.input_layernorm.weight"},
      {Role::kMlpNorm, "model.layers.{}.post_attention_layernorm.weight"},
      {Role::kQ, "model.layers.{}.self_attn.q_proj.weight"},
      {Role::kK, "model.layers.{}.self_attn.k_proj.weight"},
      {Role::kV, "model.layers.{}.self_attn.v_proj.weight"},
      {Role::kOutput, "model.layers.{}.self_attn.o_proj.weight"},
      {Role::kGate, "model.layers.{}.mlp.gate_proj.weight"},
      {Role::kUp, "model.layers.{}.mlp.up_proj.weight"},
      {Role::kDown, "model.layers.{}.mlp.down_proj.weight"},
      // Biases that a file must not have unless its record says so.
      {Role::kQBias, "model.layers.{}.self_attn.q_proj.bias"},
      {Role::kKBias, "model.layers.{}.self_attn.k_proj.bias"},
      {Role::kVBias, "model.layers.{}.self_attn.v_proj.bias"},
      {Role::kOutputBias, "model.layers.{}.self_attn.o_proj.bias"},
      {Role::kGateBias, "model.layers.{}.mlp.gate_proj.bias"},
      {Role::kUpBias, "model.layers.{}.mlp.up_proj.bias"},
      {Role::kDownBias, "model.layers.{}.mlp.down_proj.bias"},
  };
  return *names;
}

float score_scale(const BlockSpec& block) {
  if (block.attention_scale != 0) return block.attention_scale;
  return 1.0f / std::sqrt(static_cast<float>(block.head_dim));
}

bool ModelRecord::has_experts() const {
  return std::any_of(blocks.begin(), blocks.end(), [](const BlockSpec& b) { return b.experts.num_experts != 0; });
}

std::string ModelRecord::tensor_name(Role role, uint32_t layer, uint32_t expert) const {
  for (const TensorName& name : names.empty() ? llama_names() : names) {
    if (name.role != role) continue;
    std::string text = name.pattern;
    for (const uint32_t number : {layer, expert}) {
      const size_t at = text.find("{}");
      if (at != std::string::npos) text.replace(at, 2, std::to_string(number));
    }
    return text;
  }
  return {};
}

}  // namespace nwc
