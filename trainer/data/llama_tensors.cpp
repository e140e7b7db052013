#include "trainer/data/llama_tensors.h"

#include <string_view>
#include <unordered_map>

#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

using Shape = std::vector<uint64_t>;

bool is_layer_bias(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  constexpr std::string_view kBias = ".bias";
  return name.size() > kLayers.size() + kBias.size() && name.compare(0, kLayers.size(), kLayers) == 0 &&
         name.compare(name.size() - kBias.size(), kBias.size(), kBias) == 0;
}

class Checker {
 public:
  explicit Checker(const std::vector<SourceTensor>& tensors) {
    for (const SourceTensor& tensor : tensors) by_name_.emplace(tensor.name, &tensor);
  }
  Status expect(const std::string& name, const Shape& shape) const {
    const auto it = by_name_.find(name);
    if (it == by_name_.end()) return corrupt(quote_tensor(name) + " is missing; the model description needs it");
    const SourceTensor& tensor = *it->second;
    if (tensor.shape != shape) {
      return unsupported(quote_tensor(name) + " has shape " + shape_text(tensor.shape) +
                         ", the model description needs " + shape_text(shape));
    }
    if (!dtype_is_float(tensor.dtype)) {
      return unsupported(quote_tensor(name) + " is stored as " + tensor.stored_type + ", not as floats");
    }
    if (dtype_size(tensor.dtype) < 2) {
      return unsupported(quote_tensor(name) + " is stored as " + tensor.stored_type + ", and what scales it is not known");
    }
    return {};
  }

 private:
  std::unordered_map<std::string_view, const SourceTensor*> by_name_;
};

}  // namespace

Status check_llama_tensors(const ModelRecord& m, const std::vector<SourceTensor>& tensors) {
  for (const SourceTensor& tensor : tensors) {
    if (is_layer_bias(tensor.name)) return unsupported(quote_tensor(tensor.name) + ": layers with biases");
  }
  const Checker checker(tensors);
  const uint64_t q_rows = uint64_t{m.num_heads} * m.head_dim;
  const uint64_t kv_rows = uint64_t{m.num_kv_heads} * m.head_dim;
  NWC_TRY(checker.expect("model.embed_tokens.weight", {m.vocab_size, m.hidden_size}));
  // A hostile number of layers costs nothing: the first missing tensor ends the loop.
  for (uint32_t i = 0; i < m.num_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    NWC_TRY(checker.expect(layer + "input_layernorm.weight", {m.hidden_size}));
    NWC_TRY(checker.expect(layer + "self_attn.q_proj.weight", {q_rows, m.hidden_size}));
    NWC_TRY(checker.expect(layer + "self_attn.k_proj.weight", {kv_rows, m.hidden_size}));
    NWC_TRY(checker.expect(layer + "self_attn.v_proj.weight", {kv_rows, m.hidden_size}));
    NWC_TRY(checker.expect(layer + "self_attn.o_proj.weight", {m.hidden_size, q_rows}));
    NWC_TRY(checker.expect(layer + "post_attention_layernorm.weight", {m.hidden_size}));
    NWC_TRY(checker.expect(layer + "mlp.gate_proj.weight", {m.intermediate_size, m.hidden_size}));
    NWC_TRY(checker.expect(layer + "mlp.up_proj.weight", {m.intermediate_size, m.hidden_size}));
    NWC_TRY(checker.expect(layer + "mlp.down_proj.weight", {m.hidden_size, m.intermediate_size}));
  }
  NWC_TRY(checker.expect("model.norm.weight", {m.hidden_size}));
  if (!m.tied_embeddings) NWC_TRY(checker.expect("lm_head.weight", {m.vocab_size, m.hidden_size}));
  return {};
}

}  // namespace nwc
