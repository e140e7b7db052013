// Each match_* function looks at the text from pos_ on and returns the end of its match. Where a regular expression
// would backtrack, the outcome is computed directly.
#include "runtime/model/pre_tokenizer.h"

namespace nwc {

PieceSplitter::Char PieceSplitter::peek(size_t pos) const {
  if (pos >= text_.size()) return {};
  const CodePoint c = decode_utf8(text_, pos);
  const CharClass kind = char_class(c.value);
  if (numbers_end_text_ && kind == CharClass::kNumber) return {};
  return {c.value, c.length, kind};
}

size_t PieceSplitter::skip(size_t pos, CharClass kind) const {
  for (Char c = peek(pos); c.is(kind); c = peek(pos)) pos += c.length;
  return pos;
}

size_t PieceSplitter::skip_newlines(size_t pos) const {
  for (Char c = peek(pos); c.is_newline(); c = peek(pos)) pos += c.length;
  return pos;
}

/// 's 't 're 've 'm 'll 'd; pos_ if there is none.
size_t PieceSplitter::match_contraction(bool ignore_case) const {
  if (text_[pos_] != '\'') return pos_;
  const auto letter = [&](const Char& c) -> uint32_t {
    if (c.at_end()) return 0;
    if (!ignore_case) return c.value;
    if (c.value >= 'A' && c.value <= 'Z') return c.value + ('a' - 'A');
    return c.value == 0x17f ? 's' : c.value;  // the long s is an s to whoever ignores case
  };
  const Char c1 = peek(pos_ + 1);
  const size_t end1 = pos_ + 1 + c1.length;
  const uint32_t first = letter(c1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return end1;
  const Char c2 = peek(end1);
  const uint32_t second = letter(c2);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) {
    return end1 + c2.length;
  }
  return pos_;
}

/// S+(?!not S)|S+ : a run of spaces leaves its last one to whatever follows it. There is a space at pos_.
size_t PieceSplitter::match_spaces() const {
  size_t last = pos_;
  size_t end = pos_;
  Char c = peek(end);
  for (; c.is(CharClass::kSpace); c = peek(end)) {
    last = end;
    end += c.length;
  }
  return c.at_end() || last == pos_ ? end : last;
}

size_t PieceSplitter::match_gpt2() const {
  if (const size_t end = match_contraction(false); end != pos_) return end;
  const size_t start = text_[pos_] == ' ' ? pos_ + 1 : pos_;
  const Char c = peek(start);
  if (c.at_end() || c.is(CharClass::kSpace)) return match_spaces();
  return skip(start, c.kind);
}

size_t PieceSplitter::match_llama3() const {
  if (const size_t end = match_contraction(true); end != pos_) return end;
  const Char c = peek(pos_);
  if (c.is(CharClass::kLetter)) return skip(pos_, CharClass::kLetter);
  if (c.is(CharClass::kNumber)) {
    size_t end = pos_;
    for (int i = 0; i < 3 && peek(end).is(CharClass::kNumber); ++i) end += peek(end).length;
    return end;
  }
  const size_t after = pos_ + c.length;
  if (!c.is_newline() && peek(after).is(CharClass::kLetter)) return skip(after, CharClass::kLetter);
  const size_t start = c.value == ' ' ? after : pos_;
  if (peek(start).is_symbol()) return skip_newlines(skip(start, CharClass::kOther));
  // S*[\r\n]+ : everything up to the last line end of the run of spaces.
  size_t after_newline = pos_;
  size_t end = pos_;
  for (Char s = c; s.is(CharClass::kSpace); s = peek(end)) {
    end += s.length;
    if (s.is_newline()) after_newline = end;
  }
  return after_newline != pos_ ? after_newline : match_spaces();
}

std::string_view PieceSplitter::next() {
  if (pos_ >= text_.size()) return {};
  size_t end = text_.size();
  switch (kind_) {
    case PreTokenizer::kNone: break;
    case PreTokenizer::kGpt2: end = match_gpt2(); break;
    case PreTokenizer::kSmolLm2:
      // The stretches between numbers are texts of their own: a number is what ends them.
      numbers_end_text_ = false;
      if (const Char c = peek(pos_); c.is(CharClass::kNumber)) {
        end = pos_ + c.length;
      } else {
        numbers_end_text_ = true;
        end = match_gpt2();
      }
      break;
    case PreTokenizer::kLlama3: end = match_llama3(); break;
  }
  const std::string_view piece = text_.substr(pos_, end - pos_);
  pos_ = end;
  return piece;
}

}  // namespace nwc
