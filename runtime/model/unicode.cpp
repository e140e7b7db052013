#include "runtime/model/unicode.h"

#include <algorithm>
#include <iterator>

namespace nwc {
namespace {

struct CodeRange {
  uint32_t first, last;
};

#include "runtime/model/unicode_tables.inc"

template <size_t n>
bool contains(const CodeRange (&table)[n], uint32_t code_point) {
  const auto* after = std::upper_bound(std::begin(table), std::end(table), code_point,
                                       [](uint32_t code, const CodeRange& range) { return code < range.first; });
  return after != std::begin(table) && code_point <= std::prev(after)->last;
}

bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

CharClass ascii_class(uint32_t c) {
  if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') return CharClass::kLetter;
  if (c >= '0' && c <= '9') return CharClass::kNumber;
  return is_space(c) ? CharClass::kSpace : CharClass::kOther;
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t pos) {
  constexpr CodePoint kInvalid{kInvalidCodePoint, 1};
  const auto byte = [&](size_t i) -> uint32_t { return static_cast<uint8_t>(text[pos + i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const uint32_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() - pos < length) return kInvalid;
  uint32_t value = lead & (0x7fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return kInvalid;
    value = value << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return kInvalid;
  return {value, length};
}

CharClass char_class(uint32_t code_point) {
  if (code_point < 0x80) return ascii_class(code_point);
  if (contains(kLetters, code_point)) return CharClass::kLetter;
  if (contains(kNumbers, code_point)) return CharClass::kNumber;
  return is_space(code_point) ? CharClass::kSpace : CharClass::kOther;
}

}  // namespace nwc
