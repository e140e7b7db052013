// Reads the parts of a GGUF source that a .nwc file keeps.
#pragma once

#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_write.h"
#include "trainer/data/hf_write.h"
#include "trainer/data/source_record.h"

namespace nwc {

/// Opens the headers of a GGUF source's files as one. The first one has the metadata. The record must outlive the
/// result. errors: kInvalidArgument (not the record of a GGUF source), those of GgufFile::open_header
Result<GgufFile> open_kept_gguf(const SourceRecord& record);

/// All pairs in order, without those that say how a model was split into files, and with `file_type` (llama.cpp's
/// number of what most tensors are stored as) in place of the old one. quantized: with the present version of the
/// quantized formats, and both keys behind the others where the file has none. errors: kCorrupt (alignment)
Result<GgufMetadata> copy_gguf_metadata(const GgufFile& file, uint32_t file_type, bool quantized);

/// errors: kCorrupt, where a key has a value of another type
Result<TokenizerConfig> read_gguf_tokenizer_config(const GgufFile& file);

/// Returns the rows of a head in q_proj and k_proj if the source has them in llama.cpp's order, and 0 otherwise.
uint32_t kept_head_dim(const GgufFile& file);

}  // namespace nwc
