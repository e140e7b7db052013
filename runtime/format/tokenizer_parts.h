// What a TOKENIZER record of version 2 has behind the fields of version 1: a list of parts (doc/format_model.md).
#pragma once

#include "runtime/format/tokenizer_record.h"

namespace nwc {

/// Whether any part would be written.
bool has_tokenizer_parts(const TokenizerRecord& record);
/// The rules that parts have to keep, their relation to the tokens included.
Status check_tokenizer_parts(const TokenizerRecord& record);
/// record->tokens is filled. Errors: kUnsupported (a part, a value or a tail that is unknown), kCorrupt, kTruncated
Status read_tokenizer_parts(ByteReader* reader, TokenizerRecord* record);
void write_tokenizer_parts(const TokenizerRecord& record, ByteWriter* writer);

}  // namespace nwc
