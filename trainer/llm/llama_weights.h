// The weights of a Llama model, read block by block from a model source.
#pragma once

#include <string>

#include "trainer/data/model_source.h"
#include "trainer/llm/llama_block.h"

namespace nwc {

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";
inline constexpr const char* kFinalNormName = "model.norm.weight";
inline constexpr const char* kHeadName = "lm_head.weight";

/// Hugging Face name of a linear layer, "model.layers.0.self_attn.q_proj.weight".
std::string linear_name(uint32_t layer, LayerMatrix m);
/// Of the gains of the two RMSNorms of a block, "model.layers.0.input_layernorm.weight".
std::string attention_norm_name(uint32_t layer);
std::string mlp_norm_name(uint32_t layer);

/// A tensor as floats.
/// errors: kCorrupt (missing, wrong shape, not finite), kUnsupported (not floats), kIo; all name the tensor
Result<RowMatrix<float>> load_matrix(const ModelSource& source, const std::string& name, Eigen::Index rows,
                                     Eigen::Index cols);
Result<RowVector<float>> load_vector(const ModelSource& source, const std::string& name, Eigen::Index size);

/// All weights of one block. errors: those of load_matrix
Result<BlockWeights<float>> load_block(const ModelSource& source, const LlamaShape& shape, uint32_t layer);

}  // namespace nwc
