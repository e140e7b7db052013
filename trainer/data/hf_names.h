// What the tensors of each family are called in Hugging Face's checkpoints.
#pragma once

#include "runtime/format/model_record.h"

namespace nwc {

/// Weight and bias of one module.
void add(std::vector<TensorName>* names, const std::string& module, Role weight, Role bias);

std::vector<TensorName> names_of_llama();
std::vector<TensorName> names_of_qk_norms();  ///< Llama's, and norms of queries and keys (Qwen 3)
std::vector<TensorName> names_of_mixtral();
std::vector<TensorName> names_of_qwen2_moe();
std::vector<TensorName> names_of_qwen3_moe();    ///< of dense layers among the others, too
std::vector<TensorName> names_of_granite_moe();  ///< the shared variant's, too
std::vector<TensorName> names_of_gpt_oss();
std::vector<TensorName> names_of_gemma();  ///< norms of inputs and outputs, and of queries and keys
std::vector<TensorName> names_of_olmo2();  ///< norms of outputs, and of queries and keys
std::vector<TensorName> names_of_phi3();   ///< fused q, k and v, fused gate and up
std::vector<TensorName> names_of_starcoder2();
std::vector<TensorName> names_of_gpt_neox();
std::vector<TensorName> names_of_gpt2();

}  // namespace nwc
