#include "runtime/engine/stop_strings.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {

Result<StopStrings> StopStrings::create(std::vector<std::string> strings) {
  if (strings.size() > kMaxStrings)
    return limit_error(str_cat("there are ", strings.size(), " stop strings, the limit is ", kMaxStrings));
  for (const std::string& s : strings) {
    if (s.empty()) return invalid_argument("a stop string is empty");
    if (s.size() > kMaxBytes)
      return limit_error(str_cat("a stop string has ", s.size(), " bytes, the limit is ", kMaxBytes));
  }
  return StopStrings(std::move(strings));
}

bool StopStrings::add(uint32_t token, std::string_view text, std::vector<Piece>* out) {
  const size_t before = text_.size();
  held_.push_back({token, std::string(text)});
  text_ += text;
  // The text before this token held no stop string: only one that ends in the token can be new.
  for (size_t end = before + 1; end <= text_.size(); ++end) {
    const std::string_view so_far = std::string_view(text_).substr(0, end);
    size_t longest = 0;
    for (const std::string& s : strings_) {
      if (so_far.ends_with(s)) longest = std::max(longest, s.size());
    }
    if (longest == 0) continue;
    size_t left = end - longest;  // bytes in front of the stop string
    for (Piece& piece : held_) {
      if (left == 0) break;
      piece.text.resize(std::min(piece.text.size(), left));
      left -= piece.text.size();
      out->push_back(std::move(piece));
    }
    held_.clear();
    text_.clear();
    return true;
  }
  // What may still become a stop string: the longest end of the text with which one begins.
  size_t keep = 0;
  for (const std::string& s : strings_) {
    for (size_t n = std::min(s.size() - 1, text_.size()); n > keep; --n) {
      if (std::string_view(text_).ends_with(std::string_view(s).substr(0, n))) keep = n;
    }
  }
  release(keep, out);
  return false;
}

void StopStrings::finish(std::vector<Piece>* out) { release(0, out); }

/// A token goes when all of its bytes are decided.
void StopStrings::release(size_t keep_bytes, std::vector<Piece>* out) {
  size_t decided = text_.size() - keep_bytes, bytes = 0;
  auto piece = held_.begin();
  for (; piece != held_.end() && piece->text.size() <= decided; ++piece) {
    decided -= piece->text.size();
    bytes += piece->text.size();
    out->push_back(std::move(*piece));
  }
  held_.erase(held_.begin(), piece);
  text_.erase(0, bytes);
}

}  // namespace nwc
