// Mixtures of experts in GGUF files: their keys, what their tensors are called, and the architectures that have them.
#pragma once

#include "trainer/data/gguf_family_parts.h"

namespace nwc {

class GgufMetadata;

/// llama.cpp's name for each role of a mixture. An expert's has the number behind that of the tensor which holds all of
/// a layer (stacked_name); the biases of gate and up are two tensors there, "ffn_gate_exps.bias" and
/// "ffn_up_exps.bias".
const std::vector<TensorName>& gguf_expert_names();
/// The same roles in Hugging Face's form: what they are called where the other tensors have such names.
const std::vector<TensorName>& renamed_expert_names();
/// `names` with those of a mixture in place of a dense MLP's.
std::vector<TensorName> with_expert_names(std::vector<TensorName> names, const std::vector<TensorName>& experts);

/// Number and width of the experts, and how their router weighs them. defaults: of the architecture, for keys that are
/// not there.
/// errors: kCorrupt (impossible values), kUnsupported (a router of another kind, groups of experts)
Status read_gguf_experts(const GgufContext& c, const ExpertSpec& defaults, BlockSpec* block);
void add_gguf_experts(const ExpertSpec& experts, const std::string& prefix, GgufMetadata* out);

Status read_gguf_qwen2_moe(GgufContext& c);
Status read_gguf_qwen3_moe(GgufContext& c);
Status read_gguf_olmoe(GgufContext& c);
Status read_gguf_granite_moe(GgufContext& c);
Status read_gguf_gpt_oss(GgufContext& c);

}  // namespace nwc
