// Merges of byte-pair encodings, as Hugging Face and GGUF files list them.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "runtime/format/model_record.h"

namespace nwc {

/// Token ids by the text that the file has for them (byte alphabet or visible spaces still in place).
using TokenIds = std::unordered_map<std::string, uint32_t>;

/// errors: kCorrupt, when left, right or their concatenation is not in the vocabulary; names the merge by `rank`
Result<TokenizerRecord::Merge> make_merge(const TokenIds& ids, std::string_view left, std::string_view right,
                                          size_t rank);

/// A merge written as one string, "left right".
Result<TokenizerRecord::Merge> parse_merge(const TokenIds& ids, std::string_view text, size_t rank);

}  // namespace nwc
