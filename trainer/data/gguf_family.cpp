#include "trainer/data/gguf_family.h"

#include <algorithm>
#include <cmath>

#include "trainer/data/gguf_experts.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_write.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/model_kinds.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {

namespace {

using Context = GgufContext;

Status read_llama(Context& c) {
  read_biases(c);
  ExpertSpec defaults;
  defaults.normalized = true;
  NWC_TRY(read_gguf_experts(c, defaults, &c.block));
  return uniform(c);
}

Status read_granite(Context& c) {
  read_biases(c);
  NWC_TRY(read_granite_scales(c));
  return uniform(c);
}

// The scale of queries begins to grow at the trained length.
Status read_mistral3(Context& c) {
  read_biases(c);
  NWC_TRY(c.get("attention.temperature_scale", &c.block.temperature_beta));
  if (c.block.temperature_beta != 0) {
    c.block.temperature_positions = c.model->max_positions;
    NWC_TRY(c.get("rope.scaling.original_context_length", &c.block.temperature_positions));
  }
  return uniform(c);
}

Status read_smollm3(Context& c) {
  read_biases(c);
  std::vector<BlockSpec> layers(c.layers(), c.block);
  for (uint32_t l = 3; l < c.layers(); l += 4) layers[l].positions = Positions::kNone;
  return set_layers(layers, c.model);
}

Status read_phi3(Context& c) { return uniform(c); }

Status read_qwen2(Context& c) {
  c.block.qkv_bias = true;
  c.model->ends.head_bias = c.has_tensor("output.bias");
  return uniform(c);
}

Status read_qwen3(Context& c) {
  c.block.qk_norm = QkNorm::kPerHead;
  return uniform(c);
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
  }
  NWC_TRY(c.get("final_logit_softcapping", &c.model->ends.logit_softcap));
  c.model->ends.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.model->hidden_size)));
  // The 27B models scale by the width of a head's share of the hidden size; the file does not say so.
  const bool is_27b = c.layers() == (gemma3 ? 62u : 46u);
  if (is_27b)
    b.attention_scale = 1 / std::sqrt(static_cast<float>(c.model->hidden_size) / static_cast<float>(b.num_heads));
  BlockSpec local = b;
  if (gemma3) {
    local.rope = RopeSpec();
    local.rope.theta = 10000;
    NWC_TRY(c.get("rope.freq_base_swa", &local.rope.theta));
  } else {
    local.window = 4096;
  }
  return set_sliding(c, b, local, gemma3 ? 6 : 2);
}
Status read_gemma2(Context& c) { return read_gemma(c, false); }
Status read_gemma3(Context& c) { return read_gemma(c, true); }

Status read_olmo2(Context& c) {
  c.block.norm_before = false;
  c.block.norm_after = true;
  c.block.qk_norm = QkNorm::kWhole;
  BlockSpec local = c.block;  // OLMo 3: layers that slide have plain rotary positions
  local.rope = RopeSpec();
  local.rope.theta = c.block.rope.theta;
  NWC_TRY(c.get("rope.freq_base_swa", &local.rope.theta));
  return c.file.has(c.prefix + "attention.sliding_window") ? set_sliding(c, c.block, local, 4) : uniform(c);
}

Status read_layer_norms(Context& c) {
  BlockSpec& b = c.block;
  NWC_TRY(c.get("attention.layer_norm_epsilon", &b.norm_eps));
  b.norm = NormKind::kLayer;
  b.norm_bias = true;
  b.gated = false;
  b.activation = MlpActivation::kGeluTanh;
  read_biases(c);
  return {};
}

Status read_starcoder2(Context& c) {
  NWC_TRY(read_layer_norms(c));
  return uniform(c);
}

Status read_gptneox(Context& c) {
  NWC_TRY(read_layer_norms(c));
  bool parallel = true;
  NWC_TRY(c.get("use_parallel_residual", &parallel));
  c.block.parallel = parallel ? Parallel::kOwnNorm : Parallel::kNone;
  c.block.activation = MlpActivation::kGelu;
  return uniform(c);
}

Status read_gpt2(Context& c) {
  NWC_TRY(read_layer_norms(c));
  c.block.positions = Positions::kNone;
  c.model->ends.position_rows = c.model->max_positions;
  return uniform(c);
}

void write_granite(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  out->add_f32(prefix + "embedding_scale", m.ends.embedding_scale);
  out->add_f32(prefix + "residual_scale", m.block().residual_scale);
  out->add_f32(prefix + "attention.scale", score_scale(m.block()));
  out->add_f32(prefix + "logit_scale", 1 / m.ends.logit_scale);
  if (m.block().positions == Positions::kNone) out->add_bool(prefix + "rope.scaling.finetuned", false);
}

void write_mistral3(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  const BlockSpec& b = m.block();
  if (b.temperature_beta == 0) return;
  out->add_f32(prefix + "attention.temperature_scale", b.temperature_beta);
  if (b.rope.scaling != RopeScaling::kYarn && b.rope.scaling != RopeScaling::kLong)
    out->add_u32(prefix + "rope.scaling.original_context_length", b.temperature_positions);
}

// Without the keys, readers take Gemma 2's own window and caps; a cap of 0 would be divided by.
void write_gemma2(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  if (find_block(m, true) == nullptr) out->add_u32(prefix + "attention.sliding_window", m.max_positions);
  if (m.block().attention_softcap != 0) out->add_f32(prefix + "attn_logit_softcapping", m.block().attention_softcap);
  if (m.ends.logit_softcap != 0) out->add_f32(prefix + "final_logit_softcapping", m.ends.logit_softcap);
}

void write_gemma3(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  if (m.ends.logit_softcap != 0) out->add_f32(prefix + "final_logit_softcapping", m.ends.logit_softcap);
}

// The key has to be there: its 0 tells Phi-4 from Phi-3.
void write_phi3(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  if (find_block(m, true) == nullptr) out->add_u32(prefix + "attention.sliding_window", 0);
}

void write_gptneox(const ModelRecord& m, const std::string& prefix, GgufMetadata* out) {
  out->add_bool(prefix + "use_parallel_residual", m.block().parallel == Parallel::kOwnNorm);
}

struct Row {
  GgufArchitecture architecture;
  Status (*read)(Context&);
};
constexpr GgufExperts kExpertsOnly = GgufExperts::kAlways;
constexpr GgufFactors kAnyFactors = GgufFactors::kAny, kLongOnly = GgufFactors::kLong;
// find_gguf_form takes the first that fits: Qwen 2 before Llama, which may have the same biases.
constexpr Row kReaders[] = {
    {{.name = "qwen2", .square = true}, read_qwen2},
    {{.name = "llama", .rotates_neighbours = true, .experts = GgufExperts::kMay, .factors = kAnyFactors}, read_llama},
    {{.name = "qwen3"}, read_qwen3},
    {{.name = "gemma2", .windows = true, .tied = true, .write = write_gemma2}, read_gemma2},
    {{.name = "gemma3", .windows = true, .write = write_gemma3}, read_gemma3},
    {{.name = "phi3", .fused = true, .square = true, .factors = kLongOnly, .write = write_phi3}, read_phi3},
    {{.name = "smollm3", .rotates_neighbours = true}, read_smollm3},
    {{.name = "olmo2", .windows = true, .one_base = true, .square = true, .untied = true}, read_olmo2},
    {{.name = "granite", .rotates_neighbours = true, .factors = kAnyFactors, .write = write_granite}, read_granite},
    {{.name = "mistral3", .rotates_neighbours = true, .factors = kAnyFactors, .write = write_mistral3}, read_mistral3},
    {{.name = "starcoder2", .square = true}, read_starcoder2},
    {{.name = "gptneox", .square = true, .untied = true, .write = write_gptneox}, read_gptneox},
    {{.name = "gpt2", .square = true}, read_gpt2},
    {{.name = "qwen2moe", .square = true, .untied = true, .experts = kExpertsOnly}, read_gguf_qwen2_moe},
    {{.name = "qwen3moe", .experts = kExpertsOnly}, read_gguf_qwen3_moe},
    {{.name = "olmoe", .square = true, .whole_kv = true, .untied = true, .experts = kExpertsOnly}, read_gguf_olmoe},
    {{.name = "granitemoe",
      .rotates_neighbours = true,
      .experts = GgufExperts::kMay,
      .factors = kAnyFactors,
      .write = write_granite},
     read_gguf_granite_moe},
    {{.name = "gpt-oss", .windows = true, .rounded_ramp = true, .untied = true, .experts = kExpertsOnly},
     read_gguf_gpt_oss},
};

}  // namespace

std::vector<TensorName> gguf_names() {
  std::vector<TensorName> names = {{Role::kEmbedding, "token_embd.weight"},
                                   {Role::kPositions, "position_embd.weight"},
                                   {Role::kFinalNorm, "output_norm.weight"},
                                   {Role::kFinalNormBias, "output_norm.bias"},
                                   {Role::kHead, "output.weight"},
                                   {Role::kHeadBias, "output.bias"},
                                   {Role::kQNorm, "blk.{}.attn_q_norm.weight"},
                                   {Role::kKNorm, "blk.{}.attn_k_norm.weight"},
                                   {Role::kSinks, "blk.{}.attn_sinks.weight"}};
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

std::vector<const GgufArchitecture*> gguf_architectures() {
  std::vector<const GgufArchitecture*> all;
  for (const Row& reader : kReaders) all.push_back(&reader.architecture);
  return all;
}

const GgufArchitecture* find_gguf_architecture(const std::string& name) {
  for (const Row& reader : kReaders) {
    if (name == reader.architecture.name) return &reader.architecture;
  }
  return nullptr;
}

std::vector<TensorName> gguf_names(const GgufArchitecture& architecture, bool fused_qkv, bool experts) {
  std::vector<TensorName> names = gguf_names();
  if (experts) names = with_expert_names(std::move(names), gguf_expert_names());
  const auto replace = [&](std::initializer_list<Role> old, std::initializer_list<TensorName> by) {
    std::erase_if(names, [&](const TensorName& n) { return std::find(old.begin(), old.end(), n.role) != old.end(); });
    names.insert(names.end(), by);
  };
  if (fused_qkv) {
    replace({Role::kQ, Role::kK, Role::kV, Role::kQBias, Role::kKBias, Role::kVBias},
            {{Role::kQkv, "blk.{}.attn_qkv.weight"}, {Role::kQkvBias, "blk.{}.attn_qkv.bias"}});
  }
  if (architecture.fused) {
    replace({Role::kGate, Role::kUp, Role::kGateBias, Role::kUpBias}, {{Role::kGateUp, "blk.{}.ffn_up.weight"}});
  }
  if (std::string_view(architecture.name) ==
      "gpt-oss") {  // named by its place behind attention, not in front of the MLP
    replace({Role::kMlpNorm, Role::kAttentionPostNorm}, {{Role::kMlpNorm, "blk.{}.post_attention_norm.weight"}});
  }
  return names;
}

Result<ModelRecord> parse_gguf_model(const GgufFile& file) {
  std::string architecture;
  NWC_TRY(file.get("general.architecture", &architecture));
  const auto* reader = std::find_if(std::begin(kReaders), std::end(kReaders),
                                    [&](const Row& r) { return architecture == r.architecture.name; });
  if (reader == std::end(kReaders)) {
    std::string known;
    for (const Row& r : kReaders) known += (known.empty() ? "" : ", ") + std::string(r.architecture.name);
    return unsupported("architecture \"" + architecture + "\" is unknown; known are " + known);
  }
  ModelRecord model;
  const std::string prefix = architecture + ".";
  NWC_TRY(read_gguf_sizes(file, prefix, &model));
  BlockSpec& block = model.block();
  NWC_TRY(refuse_gguf_features(file, prefix, model, reader->architecture.experts));
  NWC_TRY(file.get(prefix + "attention.layer_norm_rms_epsilon", &block.norm_eps));
  NWC_TRY(file.get(prefix + "rope.dimension_count", &block.rope.dims));
  if (block.rope.dims == block.head_dim) block.rope.dims = 0;
  const bool neighbours = reader->architecture.rotates_neighbours;
  if (neighbours && block.rope.dims != 0) {
    return unsupported("metadata key \"" + prefix + "rope.dimension_count\": rotary positions on a part of the head");
  }
  NWC_TRY(read_gguf_rope(file, prefix, &model));
  NWC_TRY(read_gguf_eos(file, &model));
  Context context{file, prefix, &model, block};
  NWC_TRY(reader->read(context));
  // Where neighbours rotate, the rows are put into another order, and the tensors get Hugging Face's names.
  const bool fused_qkv = context.has_tensor("blk.0.attn_qkv.weight");
  if (!neighbours) {
    model.names = gguf_names(reader->architecture, fused_qkv, model.has_experts());
  } else if (model.has_experts()) {
    model.names = with_expert_names(llama_names(), renamed_expert_names());
  }
  NWC_TRY(validate(model));
  return model;
}

}  // namespace nwc
