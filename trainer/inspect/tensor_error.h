// How far the tensors of a file are from those of the uncompressed model.
#pragma once

#include <optional>
#include <vector>

#include "runtime/decoder/decoder.h"
#include "trainer/data/model_source.h"

namespace nwc {

/// Of each tensor of the file: the sum of squared differences over the sum of squares of the source's tensor of the
/// same name and shape, 0 for a tensor of zeros that is one still; nothing for tensors that are not coded, or that the
/// source does not have. A tensor is in memory at a time, twice, as F32. progress: in weights. errors: those of the
/// decoder and of the source, kCancelled
Result<std::vector<std::optional<double>>> tensor_errors(const NwcFile& file, Decoder& decoder,
                                                         const ModelSource& source, const Progress& progress);

}  // namespace nwc
