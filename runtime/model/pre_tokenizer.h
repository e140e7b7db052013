// Splits text into the pieces within which BPE may merge: hand-written matchers for the regular expressions of
// doc/format_model.md, section "Pre-tokenizers".
#pragma once

#include <string_view>

#include "runtime/format/model_record.h"
#include "runtime/model/unicode.h"

namespace nwc {

/// Yields the pieces of a text in order; together they are the whole text. Linear time in the length of the text.
class PieceSplitter {
 public:
  /// The text must outlive the splitter and its pieces.
  PieceSplitter(PreTokenizer kind, std::string_view text) : kind_(kind), text_(text) {}
  /// The next piece, never empty; an empty view at the end of the text.
  std::string_view next();

 private:
  struct Char {
    uint32_t value = 0;
    uint32_t length = 0;  ///< 0 at the end
    CharClass kind = CharClass::kOther;
    bool at_end() const { return length == 0; }
    bool is(CharClass k) const { return length != 0 && kind == k; }
    bool is_symbol() const { return is(CharClass::kOther); }
    bool is_newline() const { return length != 0 && (value == '\r' || value == '\n'); }
  };
  Char peek(size_t pos) const;
  size_t skip(size_t pos, CharClass kind) const;
  size_t skip_newlines(size_t pos) const;
  size_t match_contraction(bool ignore_case) const;
  size_t match_spaces() const;
  size_t match_gpt2() const;
  size_t match_llama3() const;

  PreTokenizer kind_;
  std::string_view text_;
  size_t pos_ = 0;
  bool numbers_end_text_ = false;
};

}  // namespace nwc
