// GGUF metadata of families other than Llama's to a model record. Their tensors keep the names of the GGUF file.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

/// llama.cpp's name for each role, q, k and v apart; the same for all families.
std::vector<TensorName> gguf_names();

/// Is this architecture described here? If so, the record names the tensors as the GGUF file does.
bool is_gguf_family(const std::string& architecture);

/// "llama, qwen2, ...", for messages.
std::string known_gguf_architectures();

/// architecture: one that is_gguf_family knows.
/// errors: kUnsupported (a feature that the engine lacks, named), kCorrupt (missing or impossible values)
Result<ModelRecord> parse_gguf_family(const GgufFile& file, const std::string& architecture);

}  // namespace nwc
