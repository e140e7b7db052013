// A model source over a GGUF file.
#pragma once

#include <memory>

#include "trainer/data/gguf_file.h"
#include "trainer/data/model_source.h"

namespace nwc {

/// Quantized tensors are dequantized to f32 when they are read. Names are translated to Hugging Face's, and the rows of
/// q_proj and k_proj put back into Hugging Face's order, if the model is one that the engine runs; otherwise model() is
/// missing, notes() say why, and the tensors come as the file has them.
/// safety: untrusted input
/// errors: kCorrupt, when metadata and tensors do not fit each other
Result<std::unique_ptr<ModelSource>> open_gguf(GgufFile file);

}  // namespace nwc
