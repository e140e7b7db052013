// A compressed model as a source of weights: what training sees of it.
#pragma once

#include <memory>

#include "runtime/decoder/decoder.h"
#include "trainer/data/model_source.h"

namespace nwc {

/// Opens a model file that was made of `source`. The result has the tensors of `source` in its order, those of float
/// types as the file decodes to f32, and its model and tokenizer; `source` and `runner` outlive it. One tensor at a
/// time is decoded, on all threads of the runner. errors: those of NwcFile::open, kCorrupt (a tensor is missing or has
/// another shape)
Result<std::unique_ptr<ModelSource>> open_decoded_source(std::unique_ptr<Reader> reader, const ModelSource& source,
                                                         Runner& runner);

}  // namespace nwc
