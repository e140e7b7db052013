// Writes a tokenizer record as GGUF metadata, with the keys that llama.cpp reads: the inverse of gguf_tokenizer.h.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_write.h"

namespace nwc {

/// vocab_size: rows of the embedding, as llama.cpp wants as many tokens; unused ones "[PAD<id>]" are added.
/// errors: kUnsupported, naming the setting that GGUF has no key for (a byte-level tokenizer's prefix space, a
///         pre-tokenizer with other rules about merges than its name implies)
Status add_gguf_tokenizer(const TokenizerRecord& tokenizer, uint32_t vocab_size, GgufMetadata* metadata);

}  // namespace nwc
