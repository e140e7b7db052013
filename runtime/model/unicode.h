// UTF-8 decoding, and what tokenizers ask Unicode about a character. The tables are those of unicode_tables.inc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nwc {

struct CodePoint {
  uint32_t value = 0;   ///< kInvalidCodePoint for a byte that is not part of valid UTF-8
  uint32_t length = 0;  ///< bytes; 1 for an invalid byte
};
constexpr uint32_t kInvalidCodePoint = UINT32_MAX;

/// The character at text[pos], pos < text.size(). Overlong forms, surrogates and values above U+10FFFF are invalid.
CodePoint decode_utf8(std::string_view text, size_t pos);
/// Where the character begins that ends at `pos`, 0 < pos <= text.size(): decode_utf8 backwards.
size_t previous_utf8(std::string_view text, size_t pos);
void append_utf8(uint32_t code_point, std::string* text);

/// General categories; of the marks only Mn is told from the others, and Nl counts to No, Cs to Cn.
enum class GeneralClass : uint8_t {
  kUpper,
  kLower,
  kTitle,
  kModifier,
  kOtherLetter,
  kNonSpacingMark,
  kOtherMark,
  kDecimal,
  kOtherNumber,
  kPunctuation,
  kSymbol,
  kSeparator,
  kControl,
  kFormat,
  kPrivate,
  kUnassigned
};

/// kInvalidCodePoint and values above U+10FFFF are kUnassigned.
GeneralClass general_class(uint32_t code_point);

/// A set of properties that a character has.
using CharBits = uint32_t;
constexpr CharBits char_bit(GeneralClass c) { return 1u << static_cast<uint32_t>(c); }
constexpr CharBits kUpperBit = char_bit(GeneralClass::kUpper), kLowerBit = char_bit(GeneralClass::kLower),
                   kTitleBit = char_bit(GeneralClass::kTitle), kModifierBit = char_bit(GeneralClass::kModifier),
                   kOtherLetterBit = char_bit(GeneralClass::kOtherLetter),
                   kNonSpacingBit = char_bit(GeneralClass::kNonSpacingMark),
                   kDecimalBit = char_bit(GeneralClass::kDecimal),
                   kPunctuationBit = char_bit(GeneralClass::kPunctuation), kSymbolBit = char_bit(GeneralClass::kSymbol);
constexpr CharBits kLetterBits = kUpperBit | kLowerBit | kTitleBit | kModifierBit | kOtherLetterBit;
constexpr CharBits kMarkBits = kNonSpacingBit | char_bit(GeneralClass::kOtherMark);
constexpr CharBits kNumberBits = kDecimalBit | char_bit(GeneralClass::kOtherNumber);
constexpr CharBits kSpaceBit = 1u << 16;        ///< White_Space
constexpr CharBits kNewlineBit = 1u << 17;      ///< U+000A, U+000D
constexpr CharBits kBlankBit = 1u << 18;        ///< U+0020
constexpr CharBits kSlashBit = 1u << 19;        ///< U+002F
constexpr CharBits kAsciiLetterBit = 1u << 20;  ///< A to Z, a to z
constexpr CharBits kAsciiDigitBit = 1u << 21;   ///< 0 to 9
constexpr CharBits kAsciiPunctBit = 1u << 22;   ///< the 32 printable characters of ASCII that are neither

/// All of the above; those of kInvalidCodePoint are kUnassigned's alone.
CharBits char_bits(uint32_t code_point);
bool is_white_space(uint32_t code_point);
/// Part of a word, as \w of Unicode's regular expressions.
bool is_word_character(uint32_t code_point);
/// Appends the lower case of one character, without regard to its neighbours; other characters as they are.
void append_lower_case(uint32_t code_point, std::string* text);

}  // namespace nwc
