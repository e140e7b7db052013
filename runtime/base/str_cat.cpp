#include "runtime/base/str_cat.h"

namespace nwc {

void TextPiece::append_to(std::string* out) const {
  if (size_ == kUnsigned) {
    *out += std::to_string(number_);
  } else if (size_ == kSigned) {
    *out += std::to_string(static_cast<int64_t>(number_));
  } else {
    out->append(text_, size_);
  }
}

std::string join_pieces(std::span<const TextPiece> pieces) {
  std::string joined;
  for (const TextPiece& piece : pieces) piece.append_to(&joined);
  return joined;
}

}  // namespace nwc
