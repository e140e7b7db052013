#include "trainer/data/gguf_experts.h"

#include <algorithm>

#include "trainer/data/gguf_write.h"
#include "trainer/data/hf_family.h"

namespace nwc {
namespace {

Status wrong_key(const GgufContext& c, const char* key, uint32_t value, const std::string& why) {
  return corrupt("metadata key \"" + c.prefix + key + "\" is " + std::to_string(value) + ", " + why);
}

/// The numbers of llama.cpp's enum.
Status read_router(const GgufContext& c, RouterKind* router) {
  constexpr char kKey[] = "expert_gating_func";
  uint32_t function = 0;
  NWC_TRY(c.get(kKey, &function));
  switch (function) {
    case 0: return {};  // not there, or left to the architecture
    case 1:
      if (*router == RouterKind::kSigmoid) *router = RouterKind::kSoftmaxThenTopK;
      return {};
    case 2: *router = RouterKind::kSigmoid; return {};
    case 3: *router = RouterKind::kTopKThenSoftmax; return {};
    default:
      return unsupported("metadata key \"" + c.prefix + kKey + "\" is " + std::to_string(function) +
                         ", a function of routers that the engine does not run");
  }
}

}  // namespace

const std::vector<TensorName>& gguf_expert_names() {
  static const auto* const names = new std::vector<TensorName>{
      {Role::kRouter, "blk.{}.ffn_gate_inp.weight"},
      {Role::kRouterBias, "blk.{}.ffn_gate_inp.bias"},
      {Role::kSharedGate, "blk.{}.ffn_gate_inp_shexp.weight"},
      {Role::kGate, "blk.{}.ffn_gate_shexp.weight"},
      {Role::kUp, "blk.{}.ffn_up_shexp.weight"},
      {Role::kDown, "blk.{}.ffn_down_shexp.weight"},
      {Role::kExpertGate, "blk.{}.ffn_gate_exps.{}.weight"},
      {Role::kExpertUp, "blk.{}.ffn_up_exps.{}.weight"},
      {Role::kExpertDown, "blk.{}.ffn_down_exps.{}.weight"},
      {Role::kExpertGateUpBias, "blk.{}.ffn_gate_up_exps.bias"},
      {Role::kExpertDownBias, "blk.{}.ffn_down_exps.bias"},
  };
  return *names;
}

const std::vector<TensorName>& renamed_expert_names() {
  static const auto* const names = [] {
    const std::string moe = "model.layers.{}.block_sparse_moe.", shared = "model.layers.{}.mlp.shared_expert.";
    return new std::vector<TensorName>{
        {Role::kRouter, moe + "gate.weight"},
        {Role::kGate, shared + "gate_proj.weight"},
        {Role::kUp, shared + "up_proj.weight"},
        {Role::kDown, shared + "down_proj.weight"},
        {Role::kExpertGate, moe + "experts.{}.w1.weight"},
        {Role::kExpertUp, moe + "experts.{}.w3.weight"},
        {Role::kExpertDown, moe + "experts.{}.w2.weight"},
    };
  }();
  return *names;
}

std::vector<TensorName> with_expert_names(std::vector<TensorName> names, const std::vector<TensorName>& experts) {
  std::erase_if(names, [&](const TensorName& old) {
    const bool dense = old.role >= Role::kGate && old.role <= Role::kDownBias;
    return dense || std::any_of(experts.begin(), experts.end(), [&](const auto& e) { return e.role == old.role; });
  });
  names.insert(names.end(), experts.begin(), experts.end());
  return names;
}

Status read_gguf_experts(const GgufContext& c, const ExpertSpec& defaults, BlockSpec* block) {
  uint32_t count = 0, groups = 0;
  NWC_TRY(c.get("expert_count", &count));
  if (count == 0) return {};
  ExpertSpec& e = block->experts;
  e = defaults;
  e.num_experts = count;
  NWC_TRY(c.get("expert_used_count", &e.per_token));
  if (e.per_token == 0) return wrong_key(c, "expert_used_count", 0, "or missing: a token has to take an expert");
  if (e.per_token > count) {
    return wrong_key(c, "expert_used_count", e.per_token,
                     "but \"" + c.prefix + "expert_count\" is " + std::to_string(count));
  }
  NWC_TRY(c.get("expert_group_count", &groups));
  if (groups > 1)
    return unsupported("metadata key \"" + c.prefix + "expert_group_count\": experts that are chosen by groups");
  if (e.intermediate_size == 0) e.intermediate_size = block->intermediate_size;
  if (c.file.is_array(c.prefix + "expert_feed_forward_length"))
    return unsupported("metadata key \"" + c.prefix + "expert_feed_forward_length\": layers that differ");
  NWC_TRY(c.get("expert_feed_forward_length", &e.intermediate_size));
  if (e.intermediate_size == 0) return wrong_key(c, "expert_feed_forward_length", 0, "it must be positive");
  NWC_TRY(c.get("expert_shared_feed_forward_length", &e.shared_intermediate_size));
  NWC_TRY(c.get("expert_weights_norm", &e.normalized));
  float scale = 0;
  NWC_TRY(c.get("expert_weights_scale", &scale));
  if (scale != 0) e.scale = scale;  // llama.cpp takes 0 for 1
  NWC_TRY(read_router(c, &e.router));
  block->intermediate_size = e.intermediate_size;
  return {};
}

void add_gguf_experts(const ExpertSpec& experts, const std::string& prefix, GgufMetadata* out) {
  if (experts.num_experts == 0) return;
  out->add_u32(prefix + "expert_count", experts.num_experts);
  out->add_u32(prefix + "expert_used_count", experts.per_token);
  out->add_u32(prefix + "expert_feed_forward_length", experts.intermediate_size);
  if (experts.shared_intermediate_size != 0)
    out->add_u32(prefix + "expert_shared_feed_forward_length", experts.shared_intermediate_size);
}

Status read_gguf_qwen2_moe(GgufContext& c) {
  c.block.qkv_bias = c.has_tensor("blk.0.attn_q.bias") || c.has_tensor("blk.0.attn_qkv.bias");
  ExpertSpec defaults;
  defaults.shared_gate = true;
  defaults.shared_intermediate_size = c.block.intermediate_size;
  uint32_t per_token = 0;
  NWC_TRY(c.get("expert_used_count", &per_token));
  if (per_token != 0) defaults.intermediate_size = c.block.intermediate_size / per_token;
  NWC_TRY(read_gguf_experts(c, defaults, &c.block));
  return uniform(c);
}

Status read_gguf_qwen3_moe(GgufContext& c) {
  c.block.qk_norm = QkNorm::kPerHead;
  ExpertSpec defaults;
  defaults.normalized = true;
  NWC_TRY(read_gguf_experts(c, defaults, &c.block));
  return uniform(c);
}

Status read_gguf_olmoe(GgufContext& c) {
  c.block.qk_norm = QkNorm::kWhole;
  NWC_TRY(read_gguf_experts(c, ExpertSpec(), &c.block));
  return uniform(c);
}

Status read_gguf_granite_moe(GgufContext& c) {
  read_biases(c);
  NWC_TRY(read_granite_scales(c));
  ExpertSpec defaults;
  defaults.router = RouterKind::kTopKThenSoftmax;
  NWC_TRY(read_gguf_experts(c, defaults, &c.block));
  return uniform(c);
}

// The bounds of the activation are in no key, and neither is that YaRN's ramp is not rounded.
Status read_gguf_gpt_oss(GgufContext& c) {
  BlockSpec& b = c.block;
  read_biases(c);
  b.sinks = b.mlp_bias = b.up_plus_one = true;
  b.activation = MlpActivation::kQuickGelu;
  b.clamp = 7;
  if (b.rope.scaling == RopeScaling::kYarn) b.rope.truncate = false;
  ExpertSpec defaults;
  defaults.router = RouterKind::kTopKThenSoftmax;
  defaults.router_bias = true;
  NWC_TRY(read_gguf_experts(c, defaults, &b));
  return set_sliding(c, b, b, 2);
}

}  // namespace nwc
