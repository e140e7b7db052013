// Turns a .nwc file back into safetensors, GGUF, or a Hugging Face folder.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/decoder/decoder.h"
#include "trainer/data/gguf_mix.h"
#include "trainer/data/hf_forms.h"
#include "trainer/data/source_record.h"

namespace nwc {

/// Writes every tensor of the file under its name and shape. dtype: kF32, kF16 or kBf16 for all float tensors, or none
/// for each tensor's own; tensors of other types are copied. forms: by name, tensors that are written in another form
/// than the file has them in. max_shard_bytes: where to begin another file (write_safetensors_shards); 0: one file.
/// One tensor is in memory at a time. Atomic. progress: in weights. errors: kInvalidArgument (dtype), those of the
/// decoder, kIo, kCancelled
Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress, const std::unordered_map<std::string, HeldForm>& forms = {},
                        uint64_t max_shard_bytes = 0);

/// Writes a GGUF file. `source`: what the file keeps of its source, or nullptr.
/// From a GGUF source: all its metadata as it was, except for what the stored types say; tensors in its order under its
/// names, for any architecture. From others: a model that an architecture of GGUF describes (gguf_form.h) with its
/// tokenizer, as llama.cpp loads it, with chat template, special tokens, name and license as far as the source has
/// them. type: of matrices, vectors as F32 (gguf_mix.h: quantized ones are what llama-quantize makes of the file of
/// type f32); nullptr: the source's type, F16 where that was a quantized one or is not known. The rows of q_proj and
/// k_proj are in llama.cpp's order. `notes` receives what was left out or has another type, a sentence each. Atomic;
/// one tensor is in memory at a time, and of a quantized one a band of rows as F32. runner: quantizes. errors:
/// kUnsupported (no GGUF source, and no model description or tokenizer, or one that GGUF cannot express; a weight
/// beyond the range of the type), those of the decoder, kIo, kCancelled
Status decompress_to_gguf(const NwcFile& file, Decoder& decoder, Runner& runner, const SourceRecord* source,
                          const GgufFileType* type, const std::string& path, const Progress& progress,
                          std::vector<std::string>* notes);

/// Writes a folder that transformers loads: model.safetensors as decompress_model does, and the source's files as they
/// were, config.json with the type that the weights have now. What the source does not give (a GGUF source, or none) is
/// made from the model description (hf_made.h) and the tokenizer; `notes` receives what cannot be made, a sentence
/// each. `path` must not be there, or be an empty folder. Atomic. errors: as decompress_model; kInvalidArgument (path)
Status decompress_to_folder(const NwcFile& file, Decoder& decoder, const SourceRecord* source,
                            std::optional<Dtype> dtype, const std::string& path, const Progress& progress,
                            std::vector<std::string>* notes, uint64_t max_shard_bytes = 0);

}  // namespace nwc
