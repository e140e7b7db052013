// Turns GGUF metadata into a model record, and GGUF tensor names into Hugging Face names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

/// errors: kUnsupported (another architecture, or a feature that the engine lacks, named), kCorrupt (missing or
///         impossible values; missing embedding)
Result<ModelRecord> parse_gguf_model(const GgufFile& file);

/// Sizes of a model and of its first kind of block; what no family may have; rotary positions; end tokens. prefix:
/// "llama.". What families share.
Status read_gguf_sizes(const GgufFile& file, const std::string& prefix, ModelRecord* model);
/// errors: kUnsupported (experts; keys and values of different lengths)
Status refuse_gguf_features(const GgufFile& file, const std::string& prefix, const ModelRecord& model);
Status read_gguf_rope(const GgufFile& file, const std::string& prefix, ModelRecord* model);
Status read_gguf_eos(const GgufFile& file, ModelRecord* model);

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; unknown names are returned as they are.
std::string translate_gguf_name(const std::string& name);

/// The inverse; nullopt for a tensor that the architecture does not have.
std::optional<std::string> gguf_name_of(const std::string& name);

/// Returns the row in GGUF's order of a row of q_proj or k_proj in Hugging Face's order. GGUF has the rows of a head in
/// pairs (i, i + head_dim / 2), so that neighbours are rotated; Hugging Face has the first halves of all pairs, then
/// the second halves.
uint64_t gguf_rotary_row(uint64_t row, uint32_t head_dim);

/// Returns whether this Hugging Face name is that of a matrix with such rows.
bool is_rotary_projection(const std::string& name);

/// The tensor that holds the factors by which Llama 3 divides its rotary frequencies: part of the model description.
inline constexpr char kRopeFactorsTensor[] = "rope_freqs.weight";

/// Finds the parameters (factor, low and high frequency factor, original context) that produce these factors, and sets
/// them in `model`. Only ratios of the last three show in the factors: 8192, 1, 4 is tried, then the low factor is
/// taken as 1. shapes: factors [head_dim / 2] errors: kUnsupported, when no parameters reproduce all factors to 1e-3
Status recover_llama3_scaling(const std::vector<float>& factors, ModelRecord* model);

/// The factors [head_dim / 2] of a model with RopeScaling::kLlama3.
std::vector<float> llama3_scaling_factors(const ModelRecord& model);

}  // namespace nwc
