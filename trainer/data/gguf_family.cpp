#include "trainer/data/gguf_family.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/gguf_model.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

/// What a family's reader works with.
struct Context {
  const GgufFile& file;
  std::string prefix;  ///< "gemma3."
  ModelRecord* model;
  BlockSpec block;  ///< sizes and rotary positions are read

  template <typename T>
  Status get(const char* key, T* out) const {
    return file.get(prefix + key, out);
  }
  bool has_tensor(const char* name) const {
    return std::any_of(file.tensors().begin(), file.tensors().end(),
                       [&](const GgufTensor& t) { return t.name == name; });
  }
  uint32_t layers() const { return model->num_layers; }
  Status uniform() const { return set_layers(std::vector<BlockSpec>(layers(), block), model); }
};

Status read_window(const Context& c, uint32_t* window) {
  NWC_TRY(c.get("attention.sliding_window", window));
  if (*window >= c.model->max_positions) *window = 0;
  return {};
}

Status read_qwen2(Context& c) {
  c.block.qkv_bias = true;
  return c.uniform();
}

Status read_qwen3(Context& c) {
  c.block.qk_norm = QkNorm::kPerHead;
  return c.uniform();
}

// The converter adds 1 to the gains of Gemma's norms.
Status read_gemma(Context& c, bool gemma3) {
  BlockSpec& b = c.block;
  b.norm_after = true;
  b.activation = MlpActivation::kGeluTanh;
  if (gemma3) {
    b.qk_norm = QkNorm::kPerHead;
  } else {
    b.attention_softcap = 50;
    c.model->ends.logit_softcap = 30;
    NWC_TRY(c.get("attn_logit_softcapping", &b.attention_softcap));
    NWC_TRY(c.get("final_logit_softcapping", &c.model->ends.logit_softcap));
  }
  c.model->ends.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.model->hidden_size)));
  // The 27B models scale by the width of a head's share of the hidden size; the file does not say so.
  const bool is_27b = c.layers() == (gemma3 ? 62u : 46u);
  if (is_27b)
    b.attention_scale = 1 / std::sqrt(static_cast<float>(c.model->hidden_size) / static_cast<float>(b.num_heads));
  BlockSpec local = b;
  local.window = 4096;
  NWC_TRY(read_window(c, &local.window));
  if (gemma3) {
    local.rope = RopeSpec();
    local.rope.theta = 10000;
    NWC_TRY(c.get("rope.freq_base_swa", &local.rope.theta));
  }
  const uint32_t pattern = gemma3 ? 6 : 2;
  std::vector<BlockSpec> layers;
  for (uint32_t l = 0; l < c.layers(); ++l) layers.push_back((l + 1) % pattern != 0 ? local : b);
  return set_layers(layers, c.model);
}
Status read_gemma2(Context& c) { return read_gemma(c, false); }
Status read_gemma3(Context& c) { return read_gemma(c, true); }

Status read_olmo2(Context& c) {
  c.block.norm_before = false;
  c.block.norm_after = true;
  c.block.qk_norm = QkNorm::kWhole;
  return c.uniform();
}

Status read_layer_norms(Context& c) {
  BlockSpec& b = c.block;
  NWC_TRY(c.get("attention.layer_norm_epsilon", &b.norm_eps));
  b.norm = NormKind::kLayer;
  b.norm_bias = true;
  b.gated = false;
  b.activation = MlpActivation::kGeluTanh;
  b.qkv_bias = c.has_tensor("blk.0.attn_q.bias") || c.has_tensor("blk.0.attn_qkv.bias");
  b.output_bias = c.has_tensor("blk.0.attn_output.bias");
  b.mlp_bias = c.has_tensor("blk.0.ffn_up.bias");
  return {};
}

Status read_starcoder2(Context& c) {
  NWC_TRY(read_layer_norms(c));
  NWC_TRY(read_window(c, &c.block.window));
  return c.uniform();
}

Status read_gptneox(Context& c) {
  NWC_TRY(read_layer_norms(c));
  bool parallel = true;
  NWC_TRY(c.get("use_parallel_residual", &parallel));
  c.block.parallel = parallel ? Parallel::kOwnNorm : Parallel::kNone;
  c.block.activation = MlpActivation::kGelu;
  return c.uniform();
}

Status read_gpt2(Context& c) {
  NWC_TRY(read_layer_norms(c));
  c.block.positions = Positions::kNone;
  c.model->ends.position_rows = c.model->max_positions;
  return c.uniform();
}

constexpr std::pair<const char*, Status (*)(Context&)> kReaders[] = {
    {"qwen2", read_qwen2}, {"qwen3", read_qwen3},           {"gemma2", read_gemma2},   {"gemma3", read_gemma3},
    {"olmo2", read_olmo2}, {"starcoder2", read_starcoder2}, {"gptneox", read_gptneox}, {"gpt2", read_gpt2},
};

const auto* find_reader(const std::string& architecture) {
  return std::find_if(std::begin(kReaders), std::end(kReaders), [&](const auto& r) { return architecture == r.first; });
}

}  // namespace

std::vector<TensorName> gguf_names() {
  std::vector<TensorName> names = {{Role::kEmbedding, "token_embd.weight"},
                                   {Role::kPositions, "position_embd.weight"},
                                   {Role::kFinalNorm, "output_norm.weight"},
                                   {Role::kFinalNormBias, "output_norm.bias"},
                                   {Role::kHead, "output.weight"},
                                   {Role::kHeadBias, "output.bias"},
                                   {Role::kQNorm, "blk.{}.attn_q_norm.weight"},
                                   {Role::kKNorm, "blk.{}.attn_k_norm.weight"}};
  constexpr std::tuple<Role, Role, const char*> kModules[] = {
      {Role::kAttentionNorm, Role::kAttentionNormBias, "attn_norm"},
      {Role::kAttentionPostNorm, Role::kAttentionPostNormBias, "post_attention_norm"},
      {Role::kMlpNorm, Role::kMlpNormBias, "ffn_norm"},
      {Role::kMlpPostNorm, Role::kMlpPostNormBias, "post_ffw_norm"},
      {Role::kQ, Role::kQBias, "attn_q"},
      {Role::kK, Role::kKBias, "attn_k"},
      {Role::kV, Role::kVBias, "attn_v"},
      {Role::kOutput, Role::kOutputBias, "attn_output"},
      {Role::kGate, Role::kGateBias, "ffn_gate"},
      {Role::kUp, Role::kUpBias, "ffn_up"},
      {Role::kDown, Role::kDownBias, "ffn_down"},
  };
  for (const auto& [weight, bias, module] : kModules) {
    const std::string name = std::string("blk.{}.") + module;
    names.push_back({weight, name + ".weight"});
    names.push_back({bias, name + ".bias"});
  }
  return names;
}

bool is_gguf_family(const std::string& architecture) { return find_reader(architecture) != std::end(kReaders); }

std::string known_gguf_architectures() {
  std::string text = "llama";
  for (const auto& [name, reader] : kReaders) text += std::string(", ") + name;
  return text;
}

Result<ModelRecord> parse_gguf_family(const GgufFile& file, const std::string& architecture) {
  ModelRecord model;
  const std::string prefix = architecture + ".";
  NWC_TRY(read_gguf_sizes(file, prefix, &model));
  BlockSpec& block = model.block();
  NWC_TRY(refuse_gguf_features(file, prefix, model));
  NWC_TRY(file.get(prefix + "attention.layer_norm_rms_epsilon", &block.norm_eps));
  NWC_TRY(file.get(prefix + "rope.dimension_count", &block.rope.dims));
  if (block.rope.dims == block.head_dim) block.rope.dims = 0;
  NWC_TRY(read_gguf_rope(file, prefix, &model));
  NWC_TRY(read_gguf_eos(file, &model));
  model.names = gguf_names();
  Context context{file, prefix, &model, block};
  if (context.has_tensor("blk.0.attn_qkv.weight")) {
    std::erase_if(model.names, [](const TensorName& n) {
      return n.role == Role::kQ || n.role == Role::kK || n.role == Role::kV || n.role == Role::kQBias ||
             n.role == Role::kKBias || n.role == Role::kVBias;
    });
    model.names.push_back({Role::kQkv, "blk.{}.attn_qkv.weight"});
    model.names.push_back({Role::kQkvBias, "blk.{}.attn_qkv.bias"});
  }
  NWC_TRY(find_reader(architecture)->second(context));
  NWC_TRY(validate(model));
  return model;
}

}  // namespace nwc
