// UTF-8 as tokenizer vocabularies use it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nwc {

/// Decodes the code point at the front of `text` and removes it; nullopt (text unchanged) on an invalid or overlong
/// sequence, a surrogate, or an empty text.
std::optional<uint32_t> next_code_point(std::string_view* text);

/// GPT-2's reversible byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 are code points from
/// U+0100 on in order of their values. Returns the raw bytes, or nullopt where a character is outside the alphabet.
std::optional<std::string> undo_byte_alphabet(std::string_view text);

/// The inverse: any bytes as text in that alphabet.
std::string to_byte_alphabet(std::string_view bytes);

/// SentencePiece's visible space, U+2581, back to a space.
std::string undo_visible_space(std::string_view text);

/// Spaces to visible spaces.
std::string to_visible_space(std::string_view bytes);

/// The byte of a SentencePiece byte token "<0x0A>", or nullopt.
std::optional<uint8_t> parse_byte_token(std::string_view text);

/// "<0x0A>".
std::string byte_token_text(uint8_t byte);

}  // namespace nwc
