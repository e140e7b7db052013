#include "trainer/llm/llama_weights.h"

#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

/// The source checks that the tensor is small enough to be allocated.
Result<std::vector<float>> load_values(const ModelSource& source, const std::string& name,
                                       const std::vector<uint64_t>& shape) {
  const std::optional<size_t> index = source.find(name);
  if (!index) return corrupt(quote_tensor(name) + " is missing; the model description needs it");
  const SourceTensor& tensor = source.tensors()[*index];
  if (tensor.shape != shape) {
    return corrupt(quote_tensor(name) + " has shape " + shape_text(tensor.shape) + ", the model description needs " +
                   shape_text(shape));
  }
  if (!dtype_is_float(tensor.dtype)) {
    return unsupported(quote_tensor(name) + " is stored as " + tensor.stored_type + ", not as floats");
  }
  return source.read_f32(*index);
}

}  // namespace

std::string linear_name(uint32_t layer, LayerMatrix m) {
  static constexpr const char* kNames[kNumLayerMatrices] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                            "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                                            "mlp.down_proj"};
  return "model.layers." + std::to_string(layer) + "." + kNames[m] + ".weight";
}

std::string attention_norm_name(uint32_t layer) {
  return "model.layers." + std::to_string(layer) + ".input_layernorm.weight";
}

std::string mlp_norm_name(uint32_t layer) {
  return "model.layers." + std::to_string(layer) + ".post_attention_layernorm.weight";
}

Result<RowMatrix<float>> load_matrix(const ModelSource& source, const std::string& name, Eigen::Index rows,
                                     Eigen::Index cols) {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> values,
                       load_values(source, name, {static_cast<uint64_t>(rows), static_cast<uint64_t>(cols)}));
  return RowMatrix<float>(ConstMatrixMap<float>(values.data(), rows, cols));
}

Result<RowVector<float>> load_vector(const ModelSource& source, const std::string& name, Eigen::Index size) {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> values, load_values(source, name, {static_cast<uint64_t>(size)}));
  return RowVector<float>(ConstRowMap<float>(values.data(), size));
}

Result<BlockWeights<float>> load_block(const ModelSource& source, const LlamaShape& shape, uint32_t layer) {
  BlockWeights<float> weights;
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const LayerMatrix m = static_cast<LayerMatrix>(i);
    NWC_ASSIGN_OR_RETURN(weights.matrix[m], load_matrix(source, linear_name(layer, m), shape.rows(m), shape.cols(m)));
  }
  NWC_ASSIGN_OR_RETURN(weights.attention_norm, load_vector(source, attention_norm_name(layer), shape.hidden));
  NWC_ASSIGN_OR_RETURN(weights.mlp_norm, load_vector(source, mlp_norm_name(layer), shape.hidden));
  return weights;
}

}  // namespace nwc
