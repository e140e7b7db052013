// Joins the pieces of an error text with little code. The pieces are listed in memory, and one function joins them. A
// chain of operator+ makes a temporary string, and its clean-up, at every step, which was a third of this library's
// code. Errors are made from the list itself, so that no string is made where an error occurs.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nwc {

template <size_t N>
struct TextList;

/// A piece of a text: a string that outlives it, or an integer, which appears in decimal.
class TextPiece {
 public:
  TextPiece(std::string_view text) : text_(text.data()), size_(text.size()) {}
  TextPiece(const char* text) : TextPiece(std::string_view(text)) {}
  TextPiece(const std::string& text) : TextPiece(std::string_view(text)) {}
  template <std::unsigned_integral T>
  TextPiece(T value) : number_(value), size_(kUnsigned) {}
  template <std::signed_integral T>
  TextPiece(T value) : number_(static_cast<uint64_t>(int64_t{value})), size_(kSigned) {}
  TextPiece(char) = delete;  // a letter or a number?
  TextPiece(bool) = delete;
  template <size_t N>
  TextPiece(const TextList<N>&) = delete;  // its string would be gone too soon

  void append_to(std::string* out) const;

 private:
  static constexpr size_t kUnsigned = SIZE_MAX, kSigned = SIZE_MAX - 1;  // no text is so long
  union {
    const char* text_;
    uint64_t number_;
  };
  size_t size_;
};

std::string join_pieces(std::span<const TextPiece> pieces);

/// The result of str_cat. It is valid within its expression, unless it is made a std::string there.
template <size_t N>
struct TextList {
  TextPiece pieces[N];
  operator std::string() const { return join_pieces(pieces); }
};

/// std::string(str_cat(name, ", tile ", 7)) is name + ", tile 7".
template <typename... T>
[[gnu::always_inline]] inline TextList<sizeof...(T)> str_cat(const T&... pieces) {
  return {{TextPiece(pieces)...}};
}

}  // namespace nwc
