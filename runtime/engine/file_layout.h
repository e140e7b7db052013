// The layout of the model that a .nwc file describes.
#pragma once

#include "runtime/format/nwc_file.h"
#include "runtime/graph/model_layout.h"

namespace nwc {

/// errors: kUnsupported (no MODEL section: says why), those of resolve_layout
Result<ModelLayout> resolve_file_layout(const NwcFile& file);

/// The matrices that are multiplied by and coded: of the layers from `first_layer` on, and the head, if asked for.
std::vector<size_t> coded_matrices(const ModelLayout& layout, const NwcFile& file, uint32_t first_layer = 0,
                                   bool with_head = true);

/// Every tensor that a session decodes: matrices, vectors, embedding, head.
std::vector<size_t> all_tensors(const ModelLayout& layout);

}  // namespace nwc
