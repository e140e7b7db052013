#include "runtime/engine/llama_layout.h"

namespace nwc {
namespace {

constexpr const char* kMatrixNames[kNumLayerMatrices] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                         "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                                         "mlp.down_proj"};

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

Result<size_t> find_tensor(const NwcFile& file, const std::string& name, const std::vector<uint64_t>& shape) {
  const std::optional<size_t> index = file.find(name);
  if (!index) return corrupt(str_cat("tensor ", name, " is missing, though the model description calls for it"));
  const TensorRecord& record = file.tensors()[*index];
  if (record.shape != shape) {
    return corrupt(str_cat("tensor ", name, " has shape ", shape_text(record.shape),
                           ", the model description calls for ", shape_text(shape)));
  }
  if (!dtype_is_float(record.dtype)) {
    return unsupported(str_cat("tensor ", name, " holds ", dtype_name(record.dtype), ", not floating-point numbers"));
  }
  return *index;
}

}  // namespace

uint64_t LlamaLayout::matrix_rows(LayerMatrix m) const {
  switch (m) {
    case kQ: return q_width();
    case kK:
    case kV: return kv_width();
    case kGate:
    case kUp: return model.intermediate_size;
    default: return model.hidden_size;
  }
}

uint64_t LlamaLayout::matrix_cols(LayerMatrix m) const {
  if (m == kO) return q_width();
  return m == kDown ? model.intermediate_size : model.hidden_size;
}

uint64_t LlamaLayout::matrix_offset(uint32_t m) const {
  uint64_t offset = 0;
  for (uint32_t i = 0; i < m; ++i) {
    offset += matrix_rows(static_cast<LayerMatrix>(i)) * matrix_cols(static_cast<LayerMatrix>(i));
  }
  return offset;
}

std::vector<size_t> LlamaLayout::coded_matrices(const NwcFile& file, uint32_t first_layer, bool with_head) const {
  std::vector<size_t> tensors;
  const auto consider = [&](size_t tensor) {
    if (file.tensors()[tensor].storage == Storage::kCoded) tensors.push_back(tensor);
  };
  for (size_t l = first_layer; l < layers.size(); ++l) {
    for (const size_t tensor : layers[l].matrix) consider(tensor);
  }
  if (with_head) consider(head);
  return tensors;
}

Result<LlamaLayout> resolve_llama_layout(const NwcFile& file) {
  if (!file.model()) {
    return file.model_status().with_context("its tensors can be decoded, but there is no model to evaluate");
  }
  LlamaLayout layout;
  layout.model = *file.model();
  const ModelRecord& model = layout.model;
  const std::vector<uint64_t> norm = {model.hidden_size};
  const std::vector<uint64_t> vocabulary = {model.vocab_size, model.hidden_size};
  NWC_ASSIGN_OR_RETURN(layout.embedding, find_tensor(file, "model.embed_tokens.weight", vocabulary));
  layout.head = layout.embedding;
  if (!model.tied_embeddings) {
    NWC_ASSIGN_OR_RETURN(layout.head, find_tensor(file, "lm_head.weight", vocabulary));
  }
  NWC_ASSIGN_OR_RETURN(layout.final_norm, find_tensor(file, "model.norm.weight", norm));
  for (uint32_t l = 0; l < model.num_layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    LlamaLayer layer;
    NWC_ASSIGN_OR_RETURN(layer.attention_norm, find_tensor(file, prefix + "input_layernorm.weight", norm));
    NWC_ASSIGN_OR_RETURN(layer.mlp_norm, find_tensor(file, prefix + "post_attention_layernorm.weight", norm));
    for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
      const LayerMatrix m = static_cast<LayerMatrix>(i);
      const std::string name = prefix + kMatrixNames[i];
      NWC_ASSIGN_OR_RETURN(layer.matrix[i],
                           find_tensor(file, name + ".weight", {layout.matrix_rows(m), layout.matrix_cols(m)}));
      if (file.find(name + ".bias")) {
        return unsupported(
            str_cat("tensor ", name, ".bias: models with biases in their linear layers are not supported"));
      }
    }
    layout.layers.push_back(layer);
  }
  return layout;
}

}  // namespace nwc
