// Turns the tokenizer metadata of a GGUF file into a tokenizer record.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

/// Reads tokenizer.ggml.model "gpt2" (byte-level BPE) and "llama" (SentencePiece with scores). A byte-level tokenizer
/// that names no pre-tokenizer, or "default", gets GPT-2's; `*note` then says so. errors: kUnsupported (another model
/// or pre-tokenizer), kCorrupt, kLimit
Result<TokenizerRecord> parse_gguf_tokenizer(const GgufFile& file, std::string* note);

}  // namespace nwc
