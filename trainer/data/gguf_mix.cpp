#include "trainer/data/gguf_mix.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>

namespace nwc {
namespace {

constexpr GgufFileType kFileTypes[] = {
    {"f32", 0, "F32"},    {"f16", 1, "F16"},      {"bf16", 32, "BF16"},   {"q8_0", 7, "Q8_0"},
    {"q6_k", 18, "Q6_K"}, {"q5_k_m", 17, "Q5_K"}, {"q4_k_m", 15, "Q4_K"},
};

constexpr char kFalcon[] = "falcon", kGlm5Next[] = "glm5-next";

/// Parts of names of matrices that are not quantized: small ones, and those that no operation takes quantized.
constexpr struct {
  const char* part;
  const char* architecture = nullptr;  ///< the only one where that holds; nullptr: everywhere
} kNotQuantized[] = {
    {"_norm.weight"},
    {"ffn_gate_inp.weight"},
    {"ffn_gate_tid2eid.weight"},
    {"altup"},
    {"laurel"},
    {"per_layer_model_proj"},
    {"ssm_conv1d"},
    {"shortconv.conv.weight"},
    {"indexer.k_proj.weight"},
    {"indexer.q_proj.weight"},
    {"time_mix_first.weight"},
    {"time_mix_w0.weight"},
    {"time_mix_w1.weight"},
    {"time_mix_w2.weight"},
    {"time_mix_v0.weight"},
    {"time_mix_v1.weight"},
    {"time_mix_v2.weight"},
    {"time_mix_a0.weight"},
    {"time_mix_a1.weight"},
    {"time_mix_a2.weight"},
    {"time_mix_g1.weight"},
    {"time_mix_g2.weight"},
    {"time_mix_decay_w1.weight"},
    {"time_mix_decay_w2.weight"},
    {"time_mix_lerp_fused.weight"},
    {"attn_rel_b.weight"},
    {".position_embd"},
    {"sam.pos_embd"},
    {"sam.neck."},
    {"sam.net_"},
    {".rel_pos"},
    {".patch_embd"},
    {".patch_merger"},
    {"a.rvq.codebook"},
    {"mm.a.code_embd"},
    {"hc_", kGlm5Next},
    {"indexer.attn_q_b", kGlm5Next},
    {"indexer.attn_k", kGlm5Next},
    {"indexer.proj", kGlm5Next},
    {"indexer_compressor_gate", kGlm5Next},
    {"indexer_compressor_ape", kGlm5Next},
    {"ssm_f_a.weight", kGlm5Next},
    {"ssm_f_b.weight", kGlm5Next},
    {"ssm_g_a.weight", kGlm5Next},
    {"ssm_g_b.weight", kGlm5Next},
    {"ssm_beta.weight", kGlm5Next},
    {"attn_kv_a_mqa.weight", kGlm5Next},
    {"attn_k_b.weight", kGlm5Next},
    {"attn_v_b.weight", kGlm5Next},
};

bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

/// What the rules ask of a model.
struct Model {
  std::string architecture;
  uint32_t layers = 0, experts = 0;
  bool is_70b = false;  ///< attn_v is an eighth of attn_q there, so that more bits for it cost little
};

Result<Model> read_model(const GgufFile& metadata) {
  Model model;
  NWC_TRY(metadata.get("general.architecture", &model.architecture));
  const std::string prefix = model.architecture + ".";
  NWC_TRY(metadata.get(prefix + "block_count", &model.layers));
  NWC_TRY(metadata.get(prefix + "expert_count", &model.experts));
  constexpr struct {
    const char* architecture;
    uint32_t layers;
  } k70b[] = {{"llama", 80}, {"qwen2", 80}, {"deci", 80}, {"olmo", 80}, {"jais2", 68}};
  model.is_70b = std::any_of(std::begin(k70b), std::end(k70b), [&](const auto& known) {
    return model.architecture == known.architecture && model.layers == known.layers;
  });
  uint32_t heads = 0;
  if (model.is_70b && model.architecture == "llama" && !metadata.is_array(prefix + "attention.head_count") &&
      !metadata.is_array(prefix + "attention.head_count_kv")) {
    NWC_TRY(metadata.get(prefix + "attention.head_count", &heads));
    uint32_t kv_heads = heads;
    NWC_TRY(metadata.get(prefix + "attention.head_count_kv", &kv_heads));
    model.is_70b = heads != kv_heads;
  }
  return model;
}

bool is_quantized(const Model& model, const GgufTensorSpec& tensor) {
  const std::string& name = tensor.name;
  const auto dims = static_cast<size_t>(
      tensor.shape.end() - std::find_if(tensor.shape.begin(), tensor.shape.end(), [](uint64_t d) { return d != 1; }));
  if (dims < 2 || !name.ends_with("weight") || tensor.type->quantized() || !dtype_is_float(tensor.type->dtype)) {
    return false;
  }
  if (name == "position_embd.weight" || name == "token_types.weight") return false;
  return std::none_of(std::begin(kNotQuantized), std::end(kNotQuantized), [&](const auto& rule) {
    return has(name, rule.part) && (rule.architecture == nullptr || model.architecture == rule.architecture);
  });
}

/// Number in "blk.NUMBER.", at the start of the name; -1: none.
int layer_of(const std::string& name) {
  int layer = -1;
  if (!name.starts_with("blk.")) return -1;
  const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return error == std::errc() && *end == '.' ? layer : -1;
}

/// First and last eighth of the layers, and every third between them.
bool takes_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

bool like_attention_values(const std::string& name) {
  return has(name, "attn_qkv.weight") || has(name, "attn_kv_b.weight") || has(name, "attn_v.weight");
}

/// The rules, for one tensor after another in the order of layers and names.
class Rules {
 public:
  Rules(const GgufFileType& type, const Model& model, std::span<const GgufTensorSpec> tensors)
      : base_(type.matrices), mixed_(std::string_view(type.name).ends_with("_m")), model_(model) {
    for (const GgufTensorSpec& tensor : tensors) {
      if (like_attention_values(tensor.name)) ++num_values_;
      if (tensor.name == "output.weight") tied_ = false;
    }
  }

  std::string_view type_of(const GgufTensorSpec& tensor) {
    const std::string& name = tensor.name;
    const bool falcon = model_.architecture == kFalcon, eight = model_.experts == 8;
    if (model_.architecture == kGlm5Next &&
        (has(name, "attn_q_a") || has(name, "attn_q_b") || has(name, "nextn.eh_proj")))
      return "Q8_0";
    const bool embedding = name == "token_embd.weight" || name == "per_layer_token_embd.weight";
    if (name == "output.weight" || (tied_ && embedding)) {
      const bool fits = tensor.shape.back() % find_ggml_type(base_)->block_elements == 0;
      return falcon || !fits || base_ == "Q8_0" ? "Q8_0" : "Q6_K";
    }
    if (embedding) return base_;
    if (like_attention_values(name)) {
      std::string_view type = mixed_ && takes_more_bits(values_, num_values_) ? "Q6_K" : base_;
      if (model_.is_70b && type == "Q4_K") type = "Q5_K";
      ++values_;
      return eight ? "Q8_0" : type;
    }
    if (has(name, "attn_k.weight")) return eight ? "Q8_0" : base_;
    if (has(name, "attn_q.weight")) return base_;
    if (has(name, "attn_output.weight")) return !falcon && eight && base_ == "Q4_K" ? "Q5_K" : base_;
    if (has(name, "ffn_up") || has(name, "ffn_gate") || !has(name, "ffn_down")) return base_;
    // Of a mixture several of a layer may be apart from one another; the name says which layer it is.
    const int layer = model_.experts > 1 ? layer_of(name) : downs_, layers = static_cast<int>(model_.layers);
    ++downs_;
    if (!mixed_) return base_;
    if (falcon && base_ == "Q4_K") {
      return layer < layers / 16 ? "Q6_K" : takes_more_bits(layer, layers) ? "Q5_K" : "Q4_K";
    }
    return takes_more_bits(layer, layers) ? "Q6_K" : base_;
  }

 private:
  std::string_view base_;
  bool mixed_;
  const Model& model_;
  bool tied_ = true;  ///< the embedding is the output matrix, too
  int num_values_ = 0, values_ = 0, downs_ = 0;
};

/// For rows that are no whole blocks.
std::string_view type_that_fits(std::string_view wanted, uint64_t columns) {
  const auto fits = [columns](std::string_view name) { return columns % find_ggml_type(name)->block_elements == 0; };
  if (fits(wanted)) return wanted;
  std::string_view type = wanted;
  if (wanted == "Q4_K") type = "Q5_0";
  if (wanted == "Q5_K") type = "Q5_1";
  if (wanted == "Q6_K") type = "Q8_0";
  return fits(type) ? type : "F16";
}

}  // namespace

const GgufFileType* find_gguf_file_type(const std::string& name) {
  const auto* it = std::find_if(std::begin(kFileTypes), std::end(kFileTypes),
                                [&](const GgufFileType& type) { return name == type.name; });
  return it == std::end(kFileTypes) ? nullptr : it;
}

Status choose_gguf_types(const GgufFileType& type, const GgufFile& metadata, std::span<GgufTensorSpec> tensors,
                         std::vector<std::string>* notes) {
  assert(type.quantized());
  NWC_ASSIGN_OR_RETURN(const Model model, read_model(metadata));
  std::vector<GgufTensorSpec*> order;
  for (GgufTensorSpec& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const GgufTensorSpec* a, const GgufTensorSpec* b) {
    const int layer_a = layer_of(a->name), layer_b = layer_of(b->name);
    return layer_a != layer_b ? layer_a < layer_b : a->name < b->name;
  });
  struct Replaced {
    uint64_t count = 0;
    const GgufTensorSpec* first = nullptr;
  };
  std::map<std::pair<std::string_view, std::string_view>, Replaced> replaced;
  Rules rules(type, model, tensors);
  for (GgufTensorSpec* tensor : order) {
    if (!is_quantized(model, *tensor)) continue;
    const std::string_view wanted = rules.type_of(*tensor);
    const std::string_view fitting = type_that_fits(wanted, tensor->shape.back());
    tensor->type = find_ggml_type(fitting);
    if (fitting == wanted) continue;
    Replaced& entry = replaced[{wanted, fitting}];
    if (entry.count++ == 0) entry.first = tensor;
  }
  for (const auto& [types, entry] : replaced) {
    const uint32_t block = find_ggml_type(types.first)->block_elements;
    notes->push_back(std::to_string(entry.count) + (entry.count == 1 ? " tensor is " : " tensors are ") +
                     std::string(types.second) + " instead of " + std::string(types.first) +
                     ", as llama.cpp has it: " + "rows are not multiples of " + std::to_string(block) + " (tensor \"" +
                     entry.first->name + "\": " + std::to_string(entry.first->shape.back()) + ")");
  }
  return {};
}

}  // namespace nwc
