#include "trainer/data/utf8.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace nwc {
namespace {

constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";  // U+2581
constexpr uint16_t kNoByte = 256;

constexpr bool is_own_character(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

// Byte of code points 0 to 0x143.
constexpr std::array<uint16_t, 0x144> make_byte_of_code_point() {
  std::array<uint16_t, 0x144> table = {};
  for (uint16_t& entry : table) entry = kNoByte;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    table[is_own_character(byte) ? byte : next++] = static_cast<uint16_t>(byte);
  }
  return table;
}
constexpr auto kByteOfCodePoint = make_byte_of_code_point();

}  // namespace

std::optional<uint32_t> next_code_point(std::string_view* text) {
  if (text->empty()) return std::nullopt;
  const auto first = static_cast<uint8_t>((*text)[0]);
  if (first < 0x80) {
    text->remove_prefix(1);
    return first;
  }
  const size_t length = first >= 0xf0 && first <= 0xf4  ? 4
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xc2 && first < 0xe0 ? 2
                                                        : 0;
  if (length == 0 || text->size() < length) return std::nullopt;
  uint32_t code_point = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<uint8_t>((*text)[i]);
    if ((byte & 0xc0u) != 0x80u) return std::nullopt;
    code_point = code_point << 6 | (byte & 0x3fu);
  }
  constexpr uint32_t kSmallest[5] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code_point >= 0xd800 && code_point < 0xe000;
  if (code_point < kSmallest[length] || code_point > 0x10ffff || surrogate) return std::nullopt;
  text->remove_prefix(length);
  return code_point;
}

std::optional<std::string> undo_byte_alphabet(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const std::optional<uint32_t> code_point = next_code_point(&text);
    if (!code_point || *code_point >= kByteOfCodePoint.size()) return std::nullopt;
    const uint16_t byte = kByteOfCodePoint[*code_point];
    if (byte == kNoByte) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    const auto at = std::find(kByteOfCodePoint.begin(), kByteOfCodePoint.end(), byte);
    const auto code_point = static_cast<uint32_t>(at - kByteOfCodePoint.begin());  // below U+0144: at most two bytes
    if (code_point < 0x80) {
      text += static_cast<char>(code_point);
    } else {
      text += static_cast<char>(0xc0u | code_point >> 6);
      text += static_cast<char>(0x80u | (code_point & 0x3fu));
    }
  }
  return text;
}

std::string undo_visible_space(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at, kVisibleSpace.size()) == kVisibleSpace) {
      bytes += ' ';
      at += kVisibleSpace.size();
    } else {
      bytes += text[at++];
    }
  }
  return bytes;
}

std::string to_visible_space(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c == ' ') {
      text += kVisibleSpace;
    } else {
      text += c;
    }
  }
  return text;
}

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  uint8_t byte = 0;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, byte, 16);
  if (error != std::errc() || end != text.data() + 5) return std::nullopt;
  return byte;
}

std::string byte_token_text(uint8_t byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15u] + ">";
}

}  // namespace nwc
