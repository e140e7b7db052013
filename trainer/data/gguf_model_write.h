// Writes a model record and a tokenizer record as GGUF metadata of the architecture "llama", with the keys that
// llama.cpp reads. This is the inverse of gguf_model.h and gguf_tokenizer.h.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_write.h"

namespace nwc {

/// GGUF names the end of a text, of a turn and of a message, no more.
inline constexpr size_t kMaxGgufEndTokens = 3;

/// Rotary factors of Llama 3 are a tensor, not metadata: see llama3_scaling_factors. Of the tokens that end a text the
/// first kMaxGgufEndTokens are taken.
void add_gguf_model(const ModelRecord& model, GgufMetadata* metadata);

/// vocab_size: rows of the embedding, as llama.cpp wants as many tokens; unused ones "[PAD<id>]" are added.
/// errors: kUnsupported, naming the setting that GGUF has no key for (a byte-level tokenizer's prefix space, a
///         pre-tokenizer with other rules about merges than its name implies)
Status add_gguf_tokenizer(const TokenizerRecord& tokenizer, uint32_t vocab_size, GgufMetadata* metadata);

}  // namespace nwc
