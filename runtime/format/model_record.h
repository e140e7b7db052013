// The MODEL section: config.json as a binary record (doc/format.md, section 7). The encoder fills it from Hugging Face or
// GGUF files; the runtime parses it back and never sees JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

enum class RopeScaling : uint8_t { kNone = 0, kLinear = 1, kLlama3 = 2 };

/// Hyperparameters of the Llama family: RMSNorm, RoPE (rotate-half), GQA, SwiGLU, no biases.
/// Tensors carry Hugging Face names ("model.layers.0.self_attn.q_proj.weight"), shapes [out][in].
struct ModelRecord {
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t max_positions = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1;             ///< kLinear, kLlama3
  float rope_low_freq_factor = 1;    ///< kLlama3
  float rope_high_freq_factor = 4;   ///< kLlama3
  uint32_t rope_original_max_positions = 0;  ///< kLlama3
  bool tied_embeddings = false;              ///< lm_head.weight is model.embed_tokens.weight
  std::vector<uint32_t> eos_ids;             ///< generation stops at any of these; at most 16
};

/// Checks ranges and relations (heads divide, limits of doc/format.md section 7). Message names the field.
Status validate(const ModelRecord& record);
Result<ModelRecord> parse_model_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const ModelRecord& record);

}  // namespace nwc
