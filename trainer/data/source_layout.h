// The tensors that a ModelRecord promises, found in a model source.
#pragma once

#include "runtime/graph/model_layout.h"
#include "trainer/data/model_source.h"

namespace nwc {

/// resolve_layout on the tensors of a source. Tensors beyond those of the model are allowed.
/// errors: kCorrupt (missing), kUnsupported (another shape, not floats, floats whose scale is not known, a block that
/// is
///         not run): they name the tensor or the field
Result<ModelLayout> resolve_source_layout(const ModelRecord& model, const std::vector<SourceTensor>& tensors);

/// A note if there are tensors of layers beyond those that the model has. description: where it says how many.
std::optional<SourceNote> note_of_further_layers(const ModelRecord& model, const std::vector<SourceTensor>& tensors,
                                                 const std::string& description);

}  // namespace nwc
