// Control and user-defined tokens in a text, with the options that tokenizers' added tokens have.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"
#include "runtime/model/normalizer.h"
#include "runtime/model/token_matcher.h"

namespace nwc {

/// A part of a text: a token, or what stands between tokens.
struct TextPart {
  size_t begin, end;
  uint32_t id;  ///< TokenMatcher::kNone: no token
};

/// Immutable, thread-safe.
class AddedTokens {
 public:
  /// Those with the option kNormalized, or those without: the first are looked for as the normalizer writes them.
  /// control: control tokens, too, and not user-defined ones alone. The record must outlive this. errors: kLimit
  static Result<AddedTokens> create(const TokenizerRecord& record, const Normalizer& normalizer, bool normalized,
                                    bool control);

  bool empty() const { return matcher_.empty(); }
  /// At every place the longest token. The parts are in order; where a token takes white space along that belongs to
  /// another one, they overlap, as in tokenizers.
  void split(std::string_view text, std::vector<TextPart>* parts) const;

 private:
  AddedTokens(const TokenizerRecord* record, TokenMatcher matcher, std::vector<uint32_t> lengths)
      : record_(record), matcher_(std::move(matcher)), lengths_(std::move(lengths)) {}
  size_t length(uint32_t id) const { return lengths_.empty() ? record_->tokens[id].bytes.size() : lengths_[id]; }

  const TokenizerRecord* record_;
  TokenMatcher matcher_;
  std::vector<uint32_t> lengths_;  ///< of the texts that are looked for, by id; empty: those of the tokens
};

}  // namespace nwc
