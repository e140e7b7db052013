// Turns the tokenizer metadata of a GGUF file into a tokenizer record.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

/// Reads tokenizer.ggml.model "gpt2" (byte-level BPE), "llama" (SentencePiece with scores), "gemma4" (with merges), "t5"
/// (Unigram) and "bert" (WordPiece). A byte-level tokenizer that names no pre-tokenizer, or "default", gets GPT-2's;
/// `*note` then says so. errors: kUnsupported (another model or pre-tokenizer), kCorrupt, kLimit
Result<TokenizerRecord> parse_gguf_tokenizer(const GgufFile& file, std::string* note);

/// The name in tokenizer.ggml.pre that implies these; null: there is none.
struct GgufPreTokenizer {
  const char* name = nullptr;
};
GgufPreTokenizer gguf_pre_tokenizer(PreTokenizer rules, bool ignore_merges,
                                    const std::vector<NormalizerStep>& normalizer);

}  // namespace nwc
