#include "runtime/model/pre_tokenizer.h"

#include <algorithm>

namespace nwc {
namespace {

constexpr size_t kNoMatch = SIZE_MAX;

bool in_ranges(std::span<const CodeRange> ranges, uint32_t code) {
  const auto range = std::lower_bound(ranges.begin(), ranges.end(), code,
                                      [](const CodeRange& r, uint32_t wanted) { return r.last < wanted; });
  return range != ranges.end() && range->first <= code;
}

/// GPT-2's alphabet writes these bytes as themselves, and Unicode calls them numbers; so do tokenizers' Digits behind a
/// ByteLevel pre-tokenizer.
bool is_byte_number(uint8_t byte) {
  return (byte >= '0' && byte <= '9') || byte == 0xb2 || byte == 0xb3 || byte == 0xb9 || (byte >= 0xbc && byte <= 0xbe);
}

}  // namespace

PieceSplitter::PieceSplitter(PreTokenizer kind, std::string_view text) : stages_(pattern_stages(kind)) {
  cursors_[0].text = text;
}

inline PieceSplitter::Char PieceSplitter::peek(size_t pos) const {
  if (pos >= text_.size()) return {};
  const auto byte = static_cast<uint8_t>(text_[pos]);
  if (of_bytes_) return {byte, 1, is_byte_number(byte) ? kNumberBits : 0};
  if (byte < 0x80) return {byte, 1, char_bits(byte)};
  const CodePoint c = decode_utf8(text_, pos);
  return {c.value, c.length, char_bits(c.value)};
}

inline bool PieceSplitter::belongs(const PatternItem& item, const Char& c) const {
  switch (item.kind) {
    case PatternItem::kIn: return (c.bits & item.bits) != 0;
    case PatternItem::kNotIn: return (c.bits & item.bits) == 0;
    case PatternItem::kInRanges: return in_ranges(code_ranges(item.ranges), c.value);
    default: return (c.bits & item.bits) == 0 && !in_ranges(code_ranges(item.ranges), c.value);
  }
}

size_t PieceSplitter::previous(size_t pos) const { return of_bytes_ ? pos - 1 : previous_utf8(text_, pos); }

size_t PieceSplitter::match_contraction(size_t pos, bool ignore_case) const {
  if (pos >= text_.size() || text_[pos] != '\'') return kNoMatch;
  const auto letter = [&](const Char& c) -> uint32_t {
    if (c.length == 0) return 0;
    if (!ignore_case) return c.value;
    if (c.value >= 'A' && c.value <= 'Z') return c.value + ('a' - 'A');
    return c.value == 0x17f ? 's' : c.value;  // the long s is an s to whoever ignores case
  };
  const Char c1 = peek(pos + 1);
  const size_t end1 = pos + 1 + c1.length;
  const uint32_t first = letter(c1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return end1;
  const Char c2 = peek(end1);
  const uint32_t second = letter(c2);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) {
    return end1 + c2.length;
  }
  return kNoMatch;
}

size_t PieceSplitter::match_items(const PatternItem* item, size_t pos) const {
  switch (item->kind) {
    case PatternItem::kEnd: return pos;
    case PatternItem::kNoTextAhead: {
      const Char c = peek(pos);
      return c.length == 0 || (c.bits & kSpaceBit) != 0 ? match_items(item + 1, pos) : kNoMatch;
    }
    case PatternItem::kContraction:
    case PatternItem::kContractionNoCase: {
      const size_t end = match_contraction(pos, item->kind == PatternItem::kContractionNoCase);
      if (end != kNoMatch) return match_items(item + 1, end);
      return item->min == 0 ? match_items(item + 1, pos) : kNoMatch;
    }
    case PatternItem::kRunToEnd: {
      // Where the run does not reach the end from its first character, it does not from any other: to try it from each
      // would take quadratic time.
      if (pos > 0 && (peek(previous(pos)).bits & kSpaceBit) != 0) return kNoMatch;
      size_t end = pos;
      for (Char c = peek(end); (c.bits & kSpaceBit) != 0; c = peek(end)) end += c.length;
      return end == text_.size() && end > pos ? match_items(item + 1, end) : kNoMatch;
    }
    default: break;
  }
  size_t end = pos, count = 0;
  for (; item->max == kMany || count < item->max; ++count) {
    const Char c = peek(end);
    if (c.length == 0 || !belongs(*item, c)) break;
    end += c.length;
  }
  for (;; --count) {
    if (count < item->min) return kNoMatch;
    if (item[1].kind == PatternItem::kEnd) return end;
    const size_t rest = match_items(item + 1, end);
    if (rest != kNoMatch) return rest;
    if (count == 0) return kNoMatch;
    end = previous(end);
  }
}

/// The end of the match at pos, or kNoMatch.
size_t PieceSplitter::match(const PatternStage& stage, size_t pos) const {
  for (const PatternAlternative& alternative : stage.alternatives) {
    const size_t end = match_items(alternative.data(), pos);
    if (end != kNoMatch && end != pos) return end;
  }
  return kNoMatch;
}

std::string_view PieceSplitter::next_of(size_t index) {
  Cursor& cursor = cursors_[index];
  const PatternStage& stage = *stages_[index];
  for (;;) {
    if (cursor.pos >= cursor.text.size()) {
      if (index == 0) return {};
      cursor = {next_of(index - 1)};
      if (cursor.text.empty()) return {};
    }
    text_ = cursor.text;
    of_bytes_ = stage.of_bytes;
    const size_t begin = cursor.pos;
    size_t end = cursor.match_end;
    if (end <= begin) {
      size_t at = begin;
      for (end = match(stage, at); end == kNoMatch; end = match(stage, at)) {
        at += peek(at).length;
        if (at >= text_.size()) break;
      }
      if (at > begin) {  // a gap, and perhaps a match behind it
        cursor.pos = at;
        cursor.match_end = end == kNoMatch ? at : end;
        return text_.substr(begin, at - begin);
      }
    }
    cursor.pos = end;
    if (!stage.drops_matches) return text_.substr(begin, end - begin);
  }
}

std::string_view PieceSplitter::next() {
  if (!stages_.empty()) return next_of(stages_.size() - 1);
  const std::string_view whole = cursors_[0].text.substr(cursors_[0].pos);
  cursors_[0].pos = cursors_[0].text.size();
  return whole;
}

}  // namespace nwc
