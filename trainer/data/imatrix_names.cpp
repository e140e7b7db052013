#include "trainer/data/imatrix_names.h"

#include <algorithm>
#include <set>
#include <utility>

#include "trainer/data/gguf_experts.h"
#include "trainer/data/gguf_family.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/name_pattern.h"

namespace nwc {
namespace {

/// Matrices of a layer that read the same inputs: where a file has one of them, it says what the others read.
constexpr Role kAlike[][4] = {{Role::kQ, Role::kK, Role::kV, Role::kQkv},
                              {Role::kUp, Role::kGate, Role::kGateUp, Role::kGateUp},
                              {Role::kExpertUp, Role::kExpertGate, Role::kExpertGateUp, Role::kExpertGateUp}};

/// Modules of layers that no family of nwc's has, in Hugging Face's checkpoints and in GGUF (gguf-py,
/// tensor_mapping.py).
constexpr std::pair<const char*, const char*> kOthers[] = {
    // DeepSeek 2 and 3, and who has their attention
    {"model.layers.{}.self_attn.q_a_proj", "attn_q_a"},
    {"model.layers.{}.self_attn.q_b_proj", "attn_q_b"},
    {"model.layers.{}.self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
    {"model.layers.{}.self_attn.kv_b_proj", "attn_kv_b"},
    {"model.layers.{}.mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
    {"model.layers.{}.mlp.shared_experts.up_proj", "ffn_up_shexp"},
    {"model.layers.{}.mlp.shared_experts.down_proj", "ffn_down_shexp"},
    // Mamba; Jamba, Falcon-H1, Granite 4; Qwen 3 Next
    {"backbone.layers.{}.mixer.in_proj", "ssm_in"},
    {"backbone.layers.{}.mixer.x_proj", "ssm_x"},
    {"backbone.layers.{}.mixer.dt_proj", "ssm_dt"},
    {"backbone.layers.{}.mixer.out_proj", "ssm_out"},
    {"model.layers.{}.mamba.in_proj", "ssm_in"},
    {"model.layers.{}.mamba.x_proj", "ssm_x"},
    {"model.layers.{}.mamba.dt_proj", "ssm_dt"},
    {"model.layers.{}.mamba.out_proj", "ssm_out"},
    {"model.layers.{}.linear_attn.in_proj_qkvz", "ssm_in"},
    {"model.layers.{}.linear_attn.out_proj", "ssm_out"},
    // LFM2
    {"model.layers.{}.self_attn.out_proj", "attn_output"},
    {"model.layers.{}.conv.in_proj", "shortconv.in_proj"},
    {"model.layers.{}.conv.out_proj", "shortconv.out_proj"},
    // LFM2, InternLM 2
    {"model.layers.{}.feed_forward.w1", "ffn_gate"},
    {"model.layers.{}.feed_forward.w2", "ffn_down"},
    {"model.layers.{}.feed_forward.w3", "ffn_up"},
    {"model.layers.{}.attention.wqkv", "attn_q"},
    {"model.layers.{}.attention.wo", "attn_output"},
    // Falcon
    {"transformer.h.{}.self_attention.query_key_value", "attn_qkv"},
    {"transformer.h.{}.self_attention.dense", "attn_output"},
    {"transformer.h.{}.mlp.dense_h_to_4h", "ffn_up"},
    {"transformer.h.{}.mlp.dense_4h_to_h", "ffn_down"},
};

/// Patterns of a role's tensor in GGUF, of the layer's number alone: all experts are in one.
std::vector<std::string> gguf_patterns(Role role) {
  static const auto* const all = [] {
    auto* names = new std::vector<TensorName>(gguf_names());
    for (const TensorName& name : gguf_expert_names()) {
      names->push_back(name);
      std::string& pattern = names->back().pattern;
      const size_t expert = pattern.find("_exps.{}");
      if (expert != std::string::npos) pattern.erase(expert + 5, 3);
    }
    names->push_back({Role::kQkv, "blk.{}.attn_qkv.weight"});
    names->push_back({Role::kExpertGateUp, "blk.{}.ffn_gate_up_exps.weight"});
    return names;
  }();
  std::vector<std::string> out;
  for (const TensorName& name : *all) {
    if (name.role == role) out.push_back(name.pattern);
  }
  return out;
}

class Finder {
 public:
  void add_role(Role role, const std::vector<uint32_t>& numbers) {
    add_patterns(role, role, numbers);
    for (const auto& alike : kAlike) {
      if (std::find(std::begin(alike), std::end(alike), role) == std::end(alike)) continue;
      for (const Role other : alike) add_patterns(other, role, numbers);
    }
  }
  void add(std::string tensor, std::optional<uint32_t> expert) {
    if (seen_.insert(tensor).second) found_.push_back({std::move(tensor), expert});
  }
  std::vector<ImatrixName> take() { return std::move(found_); }

 private:
  void add_patterns(Role role, Role of, const std::vector<uint32_t>& numbers) {
    const bool stacked = of_expert(of);
    if (stacked && numbers.size() != 2) return;
    for (const std::string& pattern : gguf_patterns(role))
      add(fill_pattern(pattern, numbers), stacked ? std::optional<uint32_t>(numbers[1]) : std::nullopt);
  }

  std::set<std::string> seen_;
  std::vector<ImatrixName> found_;
};

/// As a checkpoint of the text model alone has the name: multimodal ones wrap it, and those of sentence encoders begin
/// with the layers.
std::string unwrapped(std::string name) {
  static constexpr char kWrapper[] = "language_model.";
  const size_t at = name.find(kWrapper);
  if (at == 0 || (at != std::string::npos && name[at - 1] == '.')) name.erase(at, sizeof kWrapper - 1);
  return name.starts_with("layers.") ? "model." + name : name;
}

}  // namespace

std::vector<ImatrixName> imatrix_names(const ModelRecord* model, const std::string& tensor) {
  Finder finder;
  finder.add(tensor, std::nullopt);
  const auto match = [&](const std::vector<TensorName>& names, const std::string& name) {
    for (const TensorName& known : names.empty() ? llama_names() : names) {
      if (const auto numbers = match_pattern(known.pattern, name)) finder.add_role(known.role, *numbers);
    }
  };
  if (model != nullptr) {
    match(model->names, tensor);
    // What predicts tokens multiplies by the matrix that embeds them.
    if (model->tied_embeddings && tensor == model->tensor_name(Role::kEmbedding)) finder.add_role(Role::kHead, {});
    return finder.take();
  }
  const std::string name = unwrapped(tensor);
  static const auto* const families = [] {
    auto* all = new std::vector<std::vector<TensorName>>;
    for (const Family& family : hf_families()) {
      std::vector<TensorName> names = family.names();
      if (std::find(all->begin(), all->end(), names) == all->end()) all->push_back(std::move(names));
    }
    return all;
  }();
  for (const std::vector<TensorName>& names : *families) match(names, name);
  for (const auto& [pattern, module] : kOthers) {
    if (const auto numbers = match_pattern(std::string(pattern) + ".weight", name))
      finder.add(fill_pattern("blk.{}." + std::string(module) + ".weight", *numbers), std::nullopt);
  }
  return finder.take();
}

}  // namespace nwc
