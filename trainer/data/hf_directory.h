// A model as Hugging Face publishes it: a directory.
#pragma once

#include <memory>
#include <string>

#include "trainer/data/model_source.h"

namespace nwc {

/// Tensors: see add_hf_tensors. model(): from config.json. tokenizer(): from tokenizer.json. Where these are absent,
/// damaged, or of a kind that the engine lacks, the directory still opens and notes() say why. Weights that are missing
/// are an error. An lm_head.weight that config.json declares tied is left out of tensors() if it equals the embedding;
/// another one is used, with a note.
/// safety: untrusted input; no file outside the directory is opened (symbolic links are followed)
/// errors: kUnrecognized, kCorrupt, kTruncated, kLimit, kIo; messages start with the file's name
Result<std::unique_ptr<ModelSource>> open_hf_directory(const std::string& path);

}  // namespace nwc
