#include "runtime/graph/model_layout.h"

#include <algorithm>

#include "runtime/base/checked.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

using Shape = std::vector<uint64_t>;

/// The sizes behind leading ones.
Shape without_ones(const Shape& shape) {
  const auto first = std::find_if(shape.begin(), shape.end(), [](uint64_t size) { return size != 1; });
  return Shape(first, shape.end());
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

class Resolver {
 public:
  Resolver(const ModelRecord& model, const TensorLookup& lookup) : lookup_(lookup) { out_.model = model; }

  Result<ModelLayout> resolve() {
    const ModelRecord& m = out_.model;
    const EncoderSpec& encoder = m.ends.encoder;
    const Shape vocabulary = {m.vocab_size, m.hidden_size};
    if (!encoder.of_images()) {
      NWC_ASSIGN_OR_RETURN(out_.embedding, find(Role::kEmbedding, 0, vocabulary));
      if (!m.is_encoder()) out_.head = out_.embedding;
      if (m.ends.position_rows != 0) {
        NWC_ASSIGN_OR_RETURN(out_.positions, find(Role::kPositions, 0, {m.ends.position_rows, m.hidden_size}));
      }
    }
    if (!m.tied_embeddings) {
      NWC_ASSIGN_OR_RETURN(out_.head, find(Role::kHead, 0, vocabulary));
    }
    for (const BlockSpec& block : m.blocks) out_.steps.push_back(block_steps(block));
    for (uint32_t l = 0; l < m.num_layers; ++l) NWC_TRY(resolve_layer(l));
    const BlockSpec& first = m.blocks.front();
    if (encoder.token_types != 0)
      NWC_TRY(add_vector(Role::kTokenTypes, 0, Shape{encoder.token_types, m.hidden_size}, false, &out_.token_types_at));
    if (encoder.embedding_norm) {
      NWC_TRY(add_vector(Role::kEmbeddingNorm, 0, m.hidden_size, first.norm_one_plus, &out_.embedding_norm_at));
      if (first.norm_bias)
        NWC_TRY(add_vector(Role::kEmbeddingNormBias, 0, m.hidden_size, false, &out_.embedding_norm_bias_at));
    }
    if (m.is_encoder()) NWC_TRY(add_ends());
    if (out_.norms_states()) {
      NWC_TRY(add_vector(Role::kFinalNorm, 0, m.hidden_size, first.norm_one_plus, &out_.final_norm_at));
      if (first.norm_bias) NWC_TRY(add_vector(Role::kFinalNormBias, 0, m.hidden_size, false, &out_.final_norm_bias_at));
    }
    if (m.ends.head_bias) NWC_TRY(add_vector(Role::kHeadBias, 0, m.vocab_size, false, &out_.head_bias_at));
    return std::move(out_);
  }

 private:
  /// Of encoders' ends, leading sizes of 1 do not count.
  bool ignores_ones(Role role) const {
    return !of_layer(role) && (role > Role::kHeadBias || out_.model.ends.encoder.of_images());
  }
  bool has(Role role) const { return !out_.model.tensor_name(role).empty(); }

  Result<size_t> find(Role role, uint32_t layer, const Shape& shape, uint32_t expert = 0) {
    const std::string name = out_.model.tensor_name(role, layer, expert);
    if (name.empty()) {
      return corrupt(str_cat("the model description does not say what the ", role_name(role), " is called"));
    }
    const std::optional<TensorLookup::Found> found = lookup_.find(name);
    if (!found) return corrupt(str_cat("tensor ", name, " is missing, though the model description calls for it"));
    if (*found->shape != shape && (!ignores_ones(role) || without_ones(*found->shape) != without_ones(shape))) {
      return Status(lookup_.wrong_shape, str_cat("tensor ", name, " has shape ", shape_text(*found->shape),
                                                 ", the model description calls for ", shape_text(shape)));
    }
    if (!found->is_float) {
      return unsupported(str_cat("tensor ", name, " holds ", found->type, ", not floating-point numbers"));
    }
    return found->index;
  }

  Status add_vector(Role role, uint32_t layer, uint32_t size, bool one_plus, uint32_t* at) {
    return add_vector(role, layer, Shape{size}, one_plus, at);
  }
  Status add_vector(Role role, uint32_t layer, const Shape& shape, bool one_plus, uint32_t* at) {
    NWC_ASSIGN_OR_RETURN(const size_t tensor, find(role, layer, shape));
    uint64_t count = 1;
    for (const uint64_t d : shape) count *= d;  // of at most two sizes below 2^21
    if (count > UINT32_MAX - 4) return limit_error("the model's norms and biases are too many");
    const uint32_t size = static_cast<uint32_t>(count);
    if (size > UINT32_MAX - 4 - out_.vector_elements) return limit_error("the model's norms and biases are too many");
    if (at != nullptr) *at = out_.vector_elements;
    out_.vectors.push_back({role, tensor, size, out_.vector_elements, one_plus});
    out_.vector_elements += size;
    return {};
  }

  Status add_end(Role role, const Shape& shape, bool one_plus = false) {
    NWC_ASSIGN_OR_RETURN(const size_t tensor, find(role, 0, shape));
    uint64_t size = 1;
    for (const uint64_t d : shape) {
      if (!checked_mul(size, d, &size)) return limit_error(str_cat("the ", role_name(role), " is too large"));
    }
    if (size > UINT32_MAX || out_.end_elements > UINT32_MAX - size)
      return limit_error(str_cat("the ", role_name(role), " is too large"));
    out_.ends.push_back(
        {role, tensor, static_cast<uint32_t>(size), static_cast<uint32_t>(out_.end_elements), one_plus});
    out_.end_elements += size;
    return {};
  }

  /// An encoder's, but for what the first and the last block need.
  Status add_ends() {
    const ModelRecord& m = out_.model;
    const EncoderSpec& e = m.ends.encoder;
    const BlockSpec& first = m.blocks.front();
    const uint64_t hidden = m.hidden_size, inner = first.intermediate_size;
    if (e.of_images()) {
      NWC_TRY(add_end(Role::kPatch, {hidden, e.channels, e.patch_size, e.patch_size}));
      if (e.patch_bias) NWC_TRY(add_end(Role::kPatchBias, {hidden}));
      if (e.class_token) NWC_TRY(add_end(Role::kClassToken, {hidden}));
      if (e.registers != 0) NWC_TRY(add_end(Role::kRegisters, {e.registers, hidden}));
      if (m.ends.position_rows != 0) NWC_TRY(add_end(Role::kPositions, {m.ends.position_rows, hidden}));
    }
    if (e.pooled_norm) {
      NWC_TRY(add_end(Role::kFinalNorm, {hidden}, first.norm_one_plus));
      if (first.norm_bias) NWC_TRY(add_end(Role::kFinalNormBias, {hidden}));
    }
    if (e.pooling == Pooling::kAttention) {
      NWC_TRY(add_end(Role::kPoolProbe, {hidden}));
      NWC_TRY(add_end(Role::kPoolQkv, {3 * hidden, hidden}));
      NWC_TRY(add_end(Role::kPoolQkvBias, {3 * hidden}));
      NWC_TRY(add_end(Role::kPoolOutput, {hidden, hidden}));
      NWC_TRY(add_end(Role::kPoolOutputBias, {hidden}));
      NWC_TRY(add_end(Role::kPoolNorm, {hidden}, first.norm_one_plus));
      if (first.norm_bias) NWC_TRY(add_end(Role::kPoolNormBias, {hidden}));
      NWC_TRY(add_end(Role::kPoolUp, {inner, hidden}));
      NWC_TRY(add_end(Role::kPoolUpBias, {inner}));
      NWC_TRY(add_end(Role::kPoolDown, {hidden, inner}));
      NWC_TRY(add_end(Role::kPoolDownBias, {hidden}));
    }
    if (e.pooler) {
      NWC_TRY(add_end(Role::kPooler, {hidden, hidden}));
      NWC_TRY(add_end(Role::kPoolerBias, {hidden}));
    }
    return e.projection == 0 ? Status() : add_end(Role::kProjection, {e.projection, hidden});
  }

  Status add_norm(Role gain, Role bias, uint32_t layer, const BlockSpec& spec, LayerLayout* to) {
    const uint32_t n = out_.model.hidden_size;
    NWC_TRY(add_vector(gain, layer, n, spec.norm_one_plus, &to->vector_at[static_cast<size_t>(gain)]));
    if (!spec.norm_bias) return {};
    return add_vector(bias, layer, n, false, &to->vector_at[static_cast<size_t>(bias)]);
  }

  struct Part {
    Role role, bias;
    uint32_t rows;
  };
  /// The tensors of one product: apart, or all in one.
  Status add_linear(Linear linear, uint32_t layer, const std::vector<Part>& parts, Part fused, uint32_t cols, bool bias,
                    LayerLayout* to) {
    const bool whole = parts.size() > 1 && has(fused.role);
    for (const Part& part : whole ? std::vector<Part>{fused} : parts) {
      NWC_ASSIGN_OR_RETURN(const size_t tensor, find(part.role, layer, {part.rows, cols}));
      to->matrices.push_back({part.role, tensor, part.rows, cols, to->elements});
      to->elements += uint64_t{part.rows} * cols;
      const std::string bias_name = out_.model.tensor_name(part.bias, layer);
      if (!bias && !bias_name.empty() && lookup_.find(bias_name)) {
        return unsupported(str_cat("tensor ", bias_name, ": the model description says that there is no such bias"));
      }
    }
    to->first[static_cast<size_t>(linear) + 1] = static_cast<uint32_t>(to->matrices.size());
    if (!bias) return {};
    const bool whole_bias = parts.size() > 1 && has(fused.bias);
    uint32_t* at = &to->bias_at[static_cast<size_t>(linear)];
    for (const Part& part : whole_bias ? std::vector<Part>{fused} : parts) {
      NWC_TRY(add_vector(part.bias, layer, part.rows, false, at));
      at = nullptr;  // the others follow
    }
    return {};
  }

  Status add_experts(uint32_t layer, const BlockSpec& s, LayerLayout* to) {
    const uint32_t hidden = out_.model.hidden_size, experts = s.experts.num_experts;
    const uint32_t inner = s.experts.intermediate_size;
    const auto at = [&](Role role) { return &to->vector_at[static_cast<size_t>(role)]; };
    NWC_TRY(add_vector(Role::kRouter, layer, Shape{experts, hidden}, false, at(Role::kRouter)));
    if (s.experts.router_bias) NWC_TRY(add_vector(Role::kRouterBias, layer, experts, false, at(Role::kRouterBias)));
    if (s.experts.shared_gate)
      NWC_TRY(add_vector(Role::kSharedGate, layer, Shape{1, hidden}, false, at(Role::kSharedGate)));
    if (s.mlp_bias) {
      NWC_TRY(add_vector(Role::kExpertGateUpBias, layer, Shape{experts, 2 * uint64_t{inner}}, false,
                         at(Role::kExpertGateUpBias)));
      NWC_TRY(add_vector(Role::kExpertDownBias, layer, Shape{experts, hidden}, false, at(Role::kExpertDownBias)));
    }
    std::vector<std::pair<Role, Shape>> parts = {{Role::kExpertGate, {inner, hidden}},
                                                 {Role::kExpertUp, {inner, hidden}}};
    if (has(Role::kExpertGateUp)) parts = {{Role::kExpertGateUp, {2 * uint64_t{inner}, hidden}}};
    parts.push_back({Role::kExpertDown, {hidden, inner}});
    to->per_expert = static_cast<uint32_t>(parts.size());
    for (uint32_t e = 0; e < experts; ++e) {
      to->expert_elements = 0;
      for (const auto& [role, shape] : parts) {
        NWC_ASSIGN_OR_RETURN(const size_t tensor, find(role, layer, shape, e));
        const uint32_t rows = static_cast<uint32_t>(shape[0]), cols = static_cast<uint32_t>(shape[1]);
        to->expert_matrices.push_back({role, tensor, rows, cols, to->expert_elements});
        to->expert_elements += uint64_t{rows} * cols;
      }
    }
    return {};
  }

  /// The MLP that every token takes: of a mixture the shared expert, if there is one.
  Status add_mlp(uint32_t layer, const BlockSpec& s, LayerLayout* to) {
    const uint32_t inner = s.dense_width(), hidden = out_.model.hidden_size;
    if (inner == 0) {
      for (const Linear l : {Linear::kGateUp, Linear::kDown})
        to->first[static_cast<size_t>(l) + 1] = static_cast<uint32_t>(to->matrices.size());
      return {};
    }
    std::vector<Part> up = {{Role::kUp, Role::kUpBias, inner}};
    if (s.gated) up.insert(up.begin(), {Role::kGate, Role::kGateBias, inner});
    NWC_TRY(
        add_linear(Linear::kGateUp, layer, up, {Role::kGateUp, Role::kGateUpBias, 2 * inner}, hidden, s.mlp_bias, to));
    return add_linear(Linear::kDown, layer, {{Role::kDown, Role::kDownBias, hidden}}, {}, inner, s.mlp_bias, to);
  }

  Status resolve_layer(uint32_t layer) {
    const ModelRecord& m = out_.model;
    LayerLayout to;
    to.kind = m.block_kind.empty() ? uint8_t{0} : m.block_kind[layer];
    to.first_vector = out_.vectors.size();
    std::fill(std::begin(to.vector_at), std::end(to.vector_at), kNoVector);
    std::fill(std::begin(to.bias_at), std::end(to.bias_at), kNoVector);
    const BlockSpec& s = m.blocks[to.kind];
    const uint32_t q = s.q_width(), kv = s.kv_width(), hidden = m.hidden_size;
    NWC_TRY(add_linear(Linear::kQkv, layer,
                       {{Role::kQ, Role::kQBias, q}, {Role::kK, Role::kKBias, kv}, {Role::kV, Role::kVBias, kv}},
                       {Role::kQkv, Role::kQkvBias, q + 2 * kv}, hidden, s.qkv_bias, &to));
    NWC_TRY(
        add_linear(Linear::kOutput, layer, {{Role::kOutput, Role::kOutputBias, hidden}}, {}, q, s.output_bias, &to));
    NWC_TRY(add_mlp(layer, s, &to));
    if (s.experts.num_experts != 0) NWC_TRY(add_experts(layer, s, &to));
    if (s.sinks)
      NWC_TRY(add_vector(Role::kSinks, layer, s.num_heads, false, &to.vector_at[static_cast<size_t>(Role::kSinks)]));
    for (const Step& step : out_.steps[to.kind]) {
      if (step.kind == StepKind::kNorm) NWC_TRY(add_norm(step.gain, step.bias, layer, s, &to));
      if (step.kind == StepKind::kScale)
        NWC_TRY(add_vector(step.gain, layer, hidden, false, &to.vector_at[static_cast<size_t>(step.gain)]));
    }
    if (s.qk_norm != QkNorm::kNone) {
      const bool whole = s.qk_norm == QkNorm::kWhole;
      NWC_TRY(add_vector(Role::kQNorm, layer, whole ? q : s.head_dim, s.norm_one_plus,
                         &to.vector_at[static_cast<size_t>(Role::kQNorm)]));
      NWC_TRY(add_vector(Role::kKNorm, layer, whole ? kv : s.head_dim, s.norm_one_plus,
                         &to.vector_at[static_cast<size_t>(Role::kKNorm)]));
    }
    to.end_vector = out_.vectors.size();
    out_.layers.push_back(std::move(to));
    return {};
  }

  const TensorLookup& lookup_;
  ModelLayout out_;
};

}  // namespace

uint64_t ModelLayout::max_layer_elements() const {
  uint64_t most = 0;
  for (const LayerLayout& layer : layers) most = std::max(most, layer.elements);
  return most;
}

uint64_t ModelLayout::num_experts() const {
  uint64_t count = 0;
  for (const LayerLayout& layer : layers) count += layer.num_experts();
  return count;
}

bool ModelLayout::uses(Slot slot) const {
  return std::any_of(steps.begin(), steps.end(), [&](const std::vector<Step>& list) {
    return std::any_of(list.begin(), list.end(), [&](const Step& s) { return s.in == slot || s.out == slot; });
  });
}

uint32_t ModelLayout::max_width(Slot slot) const {
  uint32_t most = 0;
  for (const BlockSpec& block : model.blocks) most = std::max(most, slot_width(block, model.hidden_size, slot));
  return most;
}

Result<ModelLayout> resolve_layout(const ModelRecord& model, const TensorLookup& lookup) {
  NWC_TRY(check_runnable(model));
  return Resolver(model, lookup).resolve();
}

}  // namespace nwc
