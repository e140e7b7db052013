#include "runtime/model/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "runtime/model/unicode_tables.h"

namespace nwc {
namespace {

using enum GeneralClass;

/// Beyond the classes: runs in which capital and small letters take turns, capitals at even numbers (16) or odd ones (17).
constexpr uint32_t kUpperEven = 16;

GeneralClass look_up(uint32_t code) {
  const auto* after = std::upper_bound(std::begin(kCategories), std::end(kCategories), code << 5 | 31);
  const uint32_t kind = *std::prev(after) & 31;  // the first run begins at 0
  if (kind < kUpperEven) return static_cast<GeneralClass>(kind);
  return (code % 2 == 0) == (kind == kUpperEven) ? kUpper : kLower;
}

constexpr bool is_ascii_letter(uint32_t c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

constexpr CharBits ascii_bits(uint32_t c) {
  if (is_ascii_letter(c)) return (c < 'a' ? kUpperBit : kLowerBit) | kAsciiLetterBit;
  if (c >= '0' && c <= '9') return kDecimalBit | kAsciiDigitBit;
  if (c == ' ') return char_bit(kSeparator) | kSpaceBit | kBlankBit;
  if (c < 0x20 || c == 0x7f) {
    const CharBits newline = c == '\n' || c == '\r' ? kNewlineBit : 0;
    return char_bit(kControl) | (c >= 9 && c <= 13 ? kSpaceBit : 0) | newline;
  }
  const bool symbol = c == '$' || c == '+' || (c >= '<' && c <= '>') || c == '^' || c == '`' || c == '|' || c == '~';
  return (symbol ? kSymbolBit : kPunctuationBit) | kAsciiPunctBit | (c == '/' ? kSlashBit : 0);
}

constexpr std::array<CharBits, 128> make_ascii_bits() {
  std::array<CharBits, 128> bits{};
  for (uint32_t c = 0; c < bits.size(); ++c) bits[c] = ascii_bits(c);
  return bits;
}
constexpr std::array<CharBits, 128> kAsciiBits = make_ascii_bits();

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

size_t previous_utf8(std::string_view text, size_t pos) {
  for (size_t length = std::min<size_t>(4, pos); length > 1; --length) {
    const CodePoint c = decode_utf8(text, pos - length);
    if (c.length == length) return pos - length;
  }
  return pos - 1;
}

void append_utf8(uint32_t c, std::string* text) {
  const auto tail = [&](uint32_t shift) { text->push_back(static_cast<char>(0x80 | (c >> shift & 0x3f))); };
  if (c < 0x80) {
    text->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    text->push_back(static_cast<char>(0xc0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    text->push_back(static_cast<char>(0xe0 | c >> 12));
    tail(6);
    tail(0);
  } else {
    text->push_back(static_cast<char>(0xf0 | c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

GeneralClass general_class(uint32_t code_point) { return code_point > 0x10ffff ? kUnassigned : look_up(code_point); }

bool is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

CharBits char_bits(uint32_t code_point) {
  if (code_point < 0x80) return kAsciiBits[code_point];
  return char_bit(general_class(code_point)) | (is_white_space(code_point) ? kSpaceBit : 0);
}

bool is_word_character(uint32_t c) {
  constexpr CharBits kWord = kLetterBits | kMarkBits | kDecimalBit;
  if ((char_bits(c) & kWord) != 0) return true;
  if (general_class(c) == kOtherNumber)
    return (c >= 0x16ee && c <= 0x16f0) || (c >= 0x2160 && c <= 0x2188) || c == 0x3007 ||
           (c >= 0x3021 && c <= 0x3029) || (c >= 0x3038 && c <= 0x303a) || (c >= 0xa6e6 && c <= 0xa6ef) ||
           (c >= 0x10140 && c <= 0x10174) || c == 0x10341 || c == 0x1034a || (c >= 0x103d1 && c <= 0x103d5) ||
           (c >= 0x12400 && c <= 0x1246e);
  // Connectors, joiners, and symbols that are alphabetic.
  return c == '_' || c == 0x203f || c == 0x2040 || c == 0x2054 || c == 0xfe33 || c == 0xfe34 ||
         (c >= 0xfe4d && c <= 0xfe4f) || c == 0xff3f || c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
         (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

void append_lower_case(uint32_t c, std::string* text) {
  if (c < 0x80) {
    text->push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c));
    return;
  }
  if (c == 0x130) {
    text->append("i\xcc\x87");
    return;
  }
  const auto* after = std::upper_bound(std::begin(kLowerCase), std::end(kLowerCase), c,
                                       [](uint32_t code, const CaseRun& run) { return code < run.first; });
  if (after != std::begin(kLowerCase)) {
    const CaseRun& run = *std::prev(after);
    const uint32_t distance = c - run.first;
    if (distance % run.stride == 0 && distance / run.stride < run.count) c += static_cast<uint32_t>(run.distance);
  }
  append_utf8(c, text);
}

}  // namespace nwc
