// A model as Hugging Face publishes it: a directory.
#pragma once

#include <memory>
#include <string>

#include "trainer/data/model_source.h"

namespace nwc {

/// Tensors: model.safetensors, or the files of model.safetensors.index.json, or every *.safetensors. model(): from
/// config.json. tokenizer(): from tokenizer.json. Where these are absent or of a kind that the engine lacks, the
/// directory still opens and notes() say why; where they are damaged, or the tensors do not fit them, it does not.
/// A stored lm_head.weight that config.json declares tied is left out of tensors().
/// safety: untrusted input; no file outside the directory is opened (symbolic links are followed)
/// errors: kCorrupt, kTruncated, kLimit, kIo; messages start with the file's name
Result<std::unique_ptr<ModelSource>> open_hf_directory(const std::string& path);

}  // namespace nwc
