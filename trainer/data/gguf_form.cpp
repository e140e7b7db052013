#include "trainer/data/gguf_form.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/gguf_experts.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/model_compare.h"
#include "trainer/data/model_kinds.h"
#include "trainer/data/source_form.h"

namespace nwc {
namespace {

bool has_role(const ModelRecord& model, Role role) { return !model.tensor_name(role).empty(); }

/// Divisors that stand in tensors instead of keys.
bool has_factors(const RopeSpec& rope) {
  return rope.scaling == RopeScaling::kLlama3 || rope.scaling == RopeScaling::kLong;
}

/// The block whose rotary positions the keys describe; layers with a window may have a base of their own.
const BlockSpec& main_block(const ModelRecord& model) {
  const BlockSpec *full = nullptr, *windowed = nullptr;
  for (const BlockSpec& block : model.blocks) {
    if (block.positions != Positions::kRotary) continue;
    const BlockSpec*& kind = block.window == 0 ? full : windowed;
    if (kind == nullptr) kind = &block;
  }
  return full != nullptr ? *full : windowed != nullptr ? *windowed : model.block();
}

void add_rope(const ModelRecord& model, const std::string& prefix, GgufMetadata* metadata) {
  const BlockSpec& block = main_block(model);
  if (block.positions != Positions::kRotary) return;
  const RopeSpec& rope = block.rope;
  metadata->add_u32(prefix + "rope.dimension_count", block.rope_dims());
  metadata->add_f32(prefix + "rope.freq_base", rope.theta);
  const BlockSpec *full = find_block(model, false), *windowed = find_block(model, true);
  if (windowed != nullptr && (full == nullptr || full->rope.theta != windowed->rope.theta))
    metadata->add_f32(prefix + "rope.freq_base_swa", windowed->rope.theta);
  const std::string scaling = prefix + "rope.scaling.";
  const bool beyond = rope.scaling == RopeScaling::kYarn || rope.scaling == RopeScaling::kLong;
  if (beyond) metadata->add_u32(scaling + "original_context_length", rope.original_max_positions);
  if (rope.scaling == RopeScaling::kLinear || rope.scaling == RopeScaling::kYarn) {
    metadata->add_string(scaling + "type", rope.scaling == RopeScaling::kLinear ? "linear" : "yarn");
    metadata->add_f32(scaling + "factor", rope.factor);
  }
  if (rope.scaling == RopeScaling::kYarn) {
    metadata->add_f32(scaling + "yarn_beta_fast", rope.beta_fast);
    metadata->add_f32(scaling + "yarn_beta_slow", rope.beta_slow);
    const double rest = static_cast<double>(rope.attention_factor) / yarn_scale(static_cast<double>(rope.factor));
    if (std::abs(rest - 1) > 1e-6) metadata->add_f32(scaling + "attn_factor", static_cast<float>(rest));
  } else if (rope.scaling == RopeScaling::kLong) {
    metadata->add_string(scaling + "type", "longrope");
    metadata->add_f32(scaling + "attn_factor", rope.attention_factor);
  }
}

void add_windows(const ModelRecord& model, const std::string& prefix, GgufMetadata* metadata) {
  const BlockSpec* windowed = find_block(model, true);
  if (windowed == nullptr) return;
  metadata->add_u32(prefix + "attention.sliding_window", windowed->window);
  std::vector<bool> slides;
  for (uint32_t l = 0; l < model.num_layers; ++l) slides.push_back(model.block(l).window != 0);
  metadata->add_bools(prefix + "attention.sliding_window_pattern", slides);
}

/// What the architecture has no place for, beside what reading the metadata back shows.
std::vector<std::string> missing_places(const ModelRecord& model, const GgufArchitecture& architecture) {
  std::vector<std::string> missing;
  const BlockSpec& block = model.block();
  // What a mixture has in one tensor can be taken apart.
  const bool fused = has_role(model, Role::kGateUp) && !model.has_experts(), fused_qkv = has_role(model, Role::kQkv);
  if (fused != architecture.fused || (fused && !fused_qkv) || (fused_qkv && architecture.rotates_neighbours))
    missing.emplace_back("projections that are one tensor or are not");
  if (architecture.square && block.q_width() != model.hidden_size)
    missing.emplace_back("heads that are wider or narrower together than the hidden size");
  if (architecture.whole_kv && block.num_kv_heads != block.num_heads)
    missing.emplace_back("fewer heads of keys than of queries");
  if (architecture.tied && !model.tied_embeddings) missing.emplace_back("a head that is not the embedding");
  if (architecture.untied && model.tied_embeddings) missing.emplace_back("a head that is the embedding");
  bool factors = true, uniform = true;
  for (const BlockSpec& b : model.blocks) {
    if (b.positions != Positions::kRotary || !has_factors(main_block(model).rope)) continue;
    const GgufFactors needed = b.rope.scaling == RopeScaling::kLong ? GgufFactors::kLong : GgufFactors::kAny;
    factors = factors && architecture.factors >= needed;
    uniform = uniform && b.rope == main_block(model).rope;
  }
  if (!factors || !uniform) missing.emplace_back("rotary scaling");
  return missing;
}

/// What the model is without the factors of its rotary frequencies, which stand in tensors of their own.
ModelRecord without_factors(ModelRecord model) {
  for (BlockSpec& block : model.blocks) {
    if (!has_factors(block.rope)) continue;
    const float theta = block.rope.theta;
    const uint32_t dims = block.rope.dims;
    block.rope = RopeSpec();
    block.rope.theta = theta;
    block.rope.dims = dims;
  }
  return model;
}

/// Reads back what would be written: the header of a file with the tensors that readers look for.
Result<ModelRecord> read_back(const ModelRecord& model, const GgufArchitecture& architecture) {
  GgufMetadata metadata;
  add_gguf_model(model, architecture, &metadata);
  std::vector<GgufTensorSpec> tensors;
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    tensors.push_back({name, find_ggml_type(Dtype::kF32), std::move(shape)});
  };
  add("token_embd.weight", {model.vocab_size, model.hidden_size});
  if (!model.tied_embeddings) add("output.weight", {model.vocab_size, model.hidden_size});
  if (model.ends.head_bias) add("output.bias", {model.vocab_size});
  const bool fused = has_role(model, Role::kQkv);
  if (fused) add("blk.0.attn_qkv.weight", {1});
  if (model.block().qkv_bias) add(fused ? "blk.0.attn_qkv.bias" : "blk.0.attn_q.bias", {1});
  if (model.block().output_bias) add("blk.0.attn_output.bias", {1});
  if (model.block().mlp_bias) add("blk.0.ffn_up.bias", {1});
  std::vector<uint64_t> sizes;
  NWC_ASSIGN_OR_RETURN(std::vector<uint8_t> header, make_gguf_header(metadata, tensors, &sizes));
  NWC_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::open_header(make_owned_reader(std::move(header))));
  return parse_gguf_model(file);
}

bool is_gain(Role role) {
  return role == Role::kFinalNorm || role == Role::kAttentionNorm || role == Role::kAttentionPostNorm ||
         role == Role::kMlpNorm || role == Role::kMlpPostNorm || role == Role::kQNorm || role == Role::kKNorm;
}
bool rotates(Role role) { return role == Role::kQ || role == Role::kK || role == Role::kQBias || role == Role::kKBias; }

using Half = GgufPart::Half;

/// What GGUF's tensor of `role` is made of: the model's own, or a half of one that has gate and up.
GgufPart find_part(const ModelRecord& model, Role role, uint32_t layer, uint32_t expert) {
  constexpr std::tuple<Role, Role, Half> kHalves[] = {
      {Role::kGate, Role::kGateUp, Half::kFirst},
      {Role::kUp, Role::kGateUp, Half::kSecond},
      {Role::kExpertGate, Role::kExpertGateUp, Half::kFirst},
      {Role::kExpertUp, Role::kExpertGateUp, Half::kSecond},
  };
  GgufPart part{model.tensor_name(role, layer, expert)};
  if (!part.tensor.empty() || !model.has_experts()) return part;
  for (const auto& [of, whole, half] : kHalves) {
    if (of == role) part = {model.tensor_name(whole, layer, expert), half};
  }
  return part;
}

/// Stays in F32 in llama.cpp's files, too: routers, and biases that are matrices.
bool stays_f32(Role role) {
  return role == Role::kRouter || role == Role::kSharedGate || role == Role::kExpertGateUpBias ||
         role == Role::kExpertDownBias;
}

void add_place(const ModelRecord& model, const GgufArchitecture& architecture, const TensorName& target, uint32_t layer,
               GgufForm* form) {
  const bool of_layer = nwc::of_layer(target.role);
  const BlockSpec& block = model.block(layer);
  GgufPlace place;
  place.stacked = of_expert(target.role);
  place.name = stacked_name(target.pattern, layer);
  for (uint32_t e = 0; e < (place.stacked ? block.experts.num_experts : 1); ++e) {
    GgufPart part = find_part(model, target.role, of_layer ? layer : 0, e);
    if (part.tensor.empty()) return;
    place.parts.push_back(std::move(part));
  }
  place.f32 = stays_f32(target.role);
  place.plus_one = block.norm_one_plus && is_gain(target.role);
  if (architecture.rotates_neighbours && rotates(target.role)) place.rotary_head_dim = block.head_dim;
  if (target.role != Role::kExpertGateUpBias) {
    form->tensors.push_back(std::move(place));
    return;
  }
  for (const auto& [half, module] : {std::pair{Half::kFirst, "ffn_gate_exps"}, {Half::kSecond, "ffn_up_exps"}}) {
    GgufPlace one = place;
    one.name = "blk." + std::to_string(layer) + "." + module + ".bias";
    one.parts[0].half = half;
    one.parts[0].groups = block.experts.num_experts;
    form->tensors.push_back(std::move(one));
  }
}

GgufForm make_form(const ModelRecord& model, const GgufArchitecture& architecture) {
  GgufForm form;
  form.architecture = &architecture;
  for (const TensorName& target : gguf_names(architecture, has_role(model, Role::kQkv), model.has_experts())) {
    if (target.role == Role::kHead && model.tied_embeddings) continue;
    const bool of_layer = nwc::of_layer(target.role);
    for (uint32_t l = 0; l < (of_layer ? model.num_layers : 1); ++l) add_place(model, architecture, target, l, &form);
  }
  const RopeSpec& rope = main_block(model).rope;
  if (rope.scaling == RopeScaling::kLlama3) form.factors = {kRopeFactors};
  if (rope.scaling == RopeScaling::kLong) form.factors = {kLongRopeFactors, kShortRopeFactors};
  const BlockSpec* windowed = find_block(model, true);
  const std::string runs = "llama.cpp runs the architecture \"" + std::string(architecture.name) + "\" ";
  if (windowed != nullptr && !architecture.windows) {
    form.notes.push_back(runs + "without windows: from position " + std::to_string(windowed->window) +
                         " on its results differ from the model's");
  }
  if (architecture.rounded_ramp && rope.scaling == RopeScaling::kYarn && !rope.truncate) {
    form.notes.push_back(runs +
                         "with a ramp of YaRN that begins and ends at whole dimensions: its results differ a little "
                         "from the model's");
  }
  if (windowed != nullptr && architecture.one_base && windowed->rope.theta != rope.theta) {
    form.notes.push_back(runs +
                         "with one rotary base for all layers: its results differ from the model's, whose layers with "
                         "a window have a base of their own");
  }
  return form;
}

}  // namespace

void add_gguf_model(const ModelRecord& model, const GgufArchitecture& architecture, GgufMetadata* metadata) {
  const std::string prefix = std::string(architecture.name) + ".";
  const BlockSpec& block = model.block();
  metadata->add_string("general.architecture", architecture.name);
  metadata->add_u32(prefix + "block_count", model.num_layers);
  metadata->add_u32(prefix + "context_length", model.max_positions);
  metadata->add_u32(prefix + "embedding_length", model.hidden_size);
  metadata->add_u32(prefix + "feed_forward_length", block.intermediate_size);
  add_gguf_experts(block.experts, prefix, metadata);
  metadata->add_u32(prefix + "attention.head_count", block.num_heads);
  metadata->add_u32(prefix + "attention.head_count_kv", block.num_kv_heads);
  metadata->add_u32(prefix + "attention.key_length", block.head_dim);
  metadata->add_u32(prefix + "attention.value_length", block.head_dim);
  const bool rms = block.norm == NormKind::kRms;
  metadata->add_f32(prefix + (rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"),
                    block.norm_eps);
  metadata->add_u32(prefix + "vocab_size", model.vocab_size);
  add_rope(model, prefix, metadata);
  add_windows(model, prefix, metadata);
  if (architecture.write != nullptr) architecture.write(model, prefix, metadata);
  constexpr const char* kEnds[kMaxGgufEndTokens] = {"eos_token_id", "eot_token_id", "eom_token_id"};
  for (size_t i = 0; i < std::min(model.eos_ids.size(), kMaxGgufEndTokens); ++i)
    metadata->add_u32(std::string("tokenizer.ggml.") + kEnds[i], model.eos_ids[i]);
}

Result<GgufForm> find_gguf_form(const ModelRecord& model) {
  const GgufArchitecture* closest = nullptr;
  std::vector<std::string> fewest;
  for (const GgufArchitecture* architecture : gguf_architectures()) {
    std::vector<std::string> differences = missing_places(model, *architecture);
    const Result<ModelRecord> same = read_back(without_factors(model), *architecture);
    if (!same.ok()) continue;
    for (std::string& field : model_differences(without_factors(model), *same)) {
      if (std::find(differences.begin(), differences.end(), field) == differences.end())
        differences.push_back(std::move(field));
    }
    if (differences.empty()) return make_form(model, *architecture);
    if (closest == nullptr || differences.size() < fewest.size()) {
      closest = architecture;
      fewest = std::move(differences);
    }
  }
  std::string text;
  for (const std::string& field : fewest) text += (text.empty() ? "" : ", ") + field;
  return unsupported("no architecture of GGUF describes this model: " +
                     (closest == nullptr ? std::string("none can be read back")
                                         : "\"" + std::string(closest->name) + "\" comes closest and lacks: " + text) +
                     "; write a folder (-o FOLDER/) instead");
}

}  // namespace nwc
