// What llama.cpp calls the matrices of a model, whether nwc runs it or not.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/format/model_record.h"

namespace nwc {

/// A matrix in GGUF: a tensor, or one expert's part of it.
struct ImatrixName {
  std::string tensor;
  std::optional<uint32_t> expert;
};

/// The names under which a GGUF file may have a matrix, or another one that reads the same inputs; the likeliest first.
/// tensor: as the model's source calls it, Hugging Face's name or GGUF's. model: its description, or nullptr. A name is
/// then looked for among those of all families, of wrapped ones, and of some that nwc does not run.
std::vector<ImatrixName> imatrix_names(const ModelRecord* model, const std::string& tensor);

}  // namespace nwc
