// From a .nwc file back to safetensors or GGUF.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/decoder/decoder.h"

namespace nwc {

/// Writes every tensor of the file under its name and shape. dtype: kF32, kF16 or kBf16 for all float tensors, or none
/// for each tensor's own; tensors of other types are copied. One tensor is in memory at a time. Atomic. progress: in
/// weights. errors: kInvalidArgument (dtype), those of the decoder, kIo, kCancelled
Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress);

/// Writes a model of the Llama family as GGUF with its tokenizer, as llama.cpp loads it: matrices as `dtype` (kF32,
/// kF16 or kBf16), vectors as F32, the rows of q_proj and k_proj in llama.cpp's order. `left_out` receives the tensors
/// that the architecture lacks. Atomic; one tensor is in memory at a time.
/// errors: kInvalidArgument (dtype), kUnsupported (no model description or tokenizer, or one that GGUF cannot express;
///         a weight beyond the range of F16), those of the decoder, kIo, kCancelled
Status decompress_to_gguf(const NwcFile& file, Decoder& decoder, Dtype dtype, const std::string& path,
                          const Progress& progress, std::vector<std::string>* left_out);

}  // namespace nwc
