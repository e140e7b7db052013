// Whether f16 can hold a model's weights.
#pragma once

#include <string>

#include "runtime/engine/file_layout.h"

namespace nwc {

/// Empty where it can. Else a sentence that names the first tensor whose weights f16 would make infinite, or mostly
/// hold worse than bf16 does: below 2^-16 f16's steps are wider than bf16's, below 2^-25 weights become 0. Reads the
/// side information of coded tensors, and samples of raw ones (at most 4 MiB each). What cannot be read is left to
/// decoding, which reports it.
std::string why_not_f16(const NwcFile& file, const ModelLayout& layout);

}  // namespace nwc
