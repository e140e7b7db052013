// Turns GGUF metadata into a model record, and GGUF tensor names into Hugging Face names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_family.h"

namespace nwc {

/// errors: kUnsupported (another architecture, or a feature that the engine lacks, named), kCorrupt (missing or
///         impossible values; missing embedding)
Result<ModelRecord> parse_gguf_model(const GgufFile& file);

/// Sizes of a model and of its first kind of block; what no family may have; rotary positions; end tokens. prefix:
/// "llama.". What families share.
Status read_gguf_sizes(const GgufFile& file, const std::string& prefix, ModelRecord* model);
/// errors: kUnsupported (experts where there are none, keys and values of different lengths), kCorrupt (no experts
///         where there have to be some)
Status refuse_gguf_features(const GgufFile& file, const std::string& prefix, const ModelRecord& model,
                            GgufExperts expected);
Status read_gguf_rope(const GgufFile& file, const std::string& prefix, ModelRecord* model);
Status read_gguf_eos(const GgufFile& file, ModelRecord* model);
/// nullptr: not there.
const GgufTensor* find_gguf_tensor(const GgufFile& file, const std::string& name);

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; unknown names are returned as they are.
std::string translate_gguf_name(const std::string& name);

/// The inverse; nullopt for a tensor that the architecture does not have.
std::optional<std::string> gguf_name_of(const std::string& name);

/// Returns the row in GGUF's order of a row of q_proj or k_proj in Hugging Face's order. GGUF has the rows of a head in
/// pairs (i, i + head_dim / 2), so that neighbours are rotated; Hugging Face has the first halves of all pairs, then
/// the second halves.
uint64_t gguf_rotary_row(uint64_t row, uint32_t head_dim);

/// Returns whether this Hugging Face name is that of a matrix, or a bias, with such rows.
bool is_rotary_projection(const std::string& name);

/// Tensors that hold divisors of the rotary frequencies: part of the model description. One for all positions (Llama
/// 3), or one up to the trained length and one beyond it.
inline constexpr char kRopeFactors[] = "rope_freqs.weight";
inline constexpr char kShortRopeFactors[] = "rope_factors_short.weight";
inline constexpr char kLongRopeFactors[] = "rope_factors_long.weight";
bool is_rope_factors(const std::string& name);
/// What the tensor of this name holds for a model; empty: the model has no such tensor.
std::vector<float> rope_factors(const ModelRecord& model, const std::string& name);

/// Finds the parameters (factor, low and high frequency factor, original context) that produce these factors, and sets
/// them in `rope`. Only ratios of the last three show in the factors: 8192, 1, 4 is tried, then the low factor is
/// taken as 1. Factors that are not of Llama 3's form are kept as they are (RopeScaling::kLong).
/// errors: kCorrupt (a factor that is not positive)
Status set_rope_factors(const std::vector<float>& factors, uint32_t max_positions, uint32_t dims, RopeSpec* rope);

}  // namespace nwc
