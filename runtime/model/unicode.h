// UTF-8 decoding and the three character classes that pre-tokenizers ask for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nwc {

enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };

struct CodePoint {
  uint32_t value = 0;   ///< kInvalidCodePoint for a byte that is not part of valid UTF-8
  uint32_t length = 0;  ///< bytes; 1 for an invalid byte
};
constexpr uint32_t kInvalidCodePoint = UINT32_MAX;

/// The character at text[pos], pos < text.size(). Overlong forms, surrogates and values above U+10FFFF are invalid.
CodePoint decode_utf8(std::string_view text, size_t pos);

/// Letters and numbers: general categories L* and N* of the Unicode version in unicode_tables.inc. Spaces: White_Space.
/// kInvalidCodePoint and values above U+10FFFF are kOther.
CharClass char_class(uint32_t code_point);

}  // namespace nwc
