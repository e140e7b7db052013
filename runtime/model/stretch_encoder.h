// A stretch of normalised text without control or user-defined tokens -> token ids.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

/// Immutable, thread-safe.
class StretchEncoder {
 public:
  virtual ~StretchEncoder() = default;
  /// Appends the ids of a stretch that is not empty. begins_text: nothing of the text stands before it.
  /// Errors: kCorrupt (a byte or character that no token stands for).
  virtual Status encode(std::string_view stretch, bool begins_text, std::vector<uint32_t>* ids) const = 0;
};

/// The record must outlive the encoder. errors: kLimit (more bytes of tokens than TokenTrie takes)
Result<std::unique_ptr<StretchEncoder>> make_byte_level_encoder(const TokenizerRecord& record);
/// Kinds kSentencePieceBpe and kUnigram.
Result<std::unique_ptr<StretchEncoder>> make_sentencepiece_encoder(const TokenizerRecord& record);
Result<std::unique_ptr<StretchEncoder>> make_wordpiece_encoder(const TokenizerRecord& record);

}  // namespace nwc
