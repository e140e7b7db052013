// Turns tokenizer.json into a tokenizer record.
#pragma once

#include <optional>

#include "runtime/format/model_record.h"
#include "trainer/data/source_notes.h"

namespace nwc {

/// Reads byte-level BPE, BPE and Unigram as converted from SentencePiece, whose ranked merges are kept because no scores
/// can replace them exactly, and WordPiece. `config_bos` is the bos_token_id of
/// config.json; it is used if the post-processor adds none. Ids that no token has become unknown tokens without bytes.
/// *notes receives what the file says and the engine does not follow. errors: kCorrupt; kUnsupported (another model or
/// pipeline, an option that is unknown or changes results; the message names part, option and value); kLimit; all start
/// with "tokenizer.json"
Result<TokenizerRecord> parse_hf_tokenizer(Bytes json, std::optional<uint32_t> config_bos, SourceNotes* notes);

}  // namespace nwc
