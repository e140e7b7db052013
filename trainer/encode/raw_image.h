// Presents an uncompressed model as a .nwc file without writing one, so that the runtime can run originals.
#pragma once

#include <memory>

#include "trainer/data/model_source.h"

namespace nwc {

/// A model file (doc/format.md) all of whose tensors are raw. Metadata is in memory; tensors are read from the source
/// when their bytes are asked for, and the last few of them kept (at most 256 MiB, or one tensor). The checksums take
/// one pass over the model, parallel by tensor (threads = 0: one per hardware thread); without them it is good for
/// plans, and whoever checks a tensor finds it damaged. errors: the source's, kLimit (names of more than 1024 bytes)
Result<std::unique_ptr<Reader>> make_raw_image(std::shared_ptr<const ModelSource> source, uint32_t threads,
                                               bool checksums = true);

}  // namespace nwc
