// Checks that a source has the tensors that its ModelRecord describes.
#pragma once

#include <vector>

#include "trainer/data/model_source.h"

namespace nwc {

/// Checks that every tensor of the model is there with the right shape (doc/format_model.md names them). Tensors beyond
/// these are allowed, unless they are biases, which the engine would leave out silently.
/// errors: kCorrupt (missing), kUnsupported (another shape, not floats, a bias)
Status check_llama_tensors(const ModelRecord& model, const std::vector<SourceTensor>& tensors);

}  // namespace nwc
