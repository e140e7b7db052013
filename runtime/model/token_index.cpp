#include "runtime/model/token_index.h"

#include <algorithm>

namespace nwc {

TokenIndex::TokenIndex(const std::vector<TokenizerRecord::Token>& tokens, std::initializer_list<TokenType> types)
    : tokens_(&tokens) {
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    const TokenizerRecord::Token& token = tokens[id];
    if (token.bytes.empty() || std::find(types.begin(), types.end(), token.type) == types.end()) continue;
    if ((token.options & TokenizerRecord::kDecodesOnly) != 0) continue;
    ids_.push_back(id);
    ++first_[static_cast<uint8_t>(token.bytes[0]) + 1u];
    longest_ = std::max(longest_, token.bytes.size());
  }
  for (size_t b = 1; b < first_.size(); ++b) first_[b] += first_[b - 1];
  // std::string compares as unsigned bytes, as first_ does.
  std::sort(ids_.begin(), ids_.end(), [&](uint32_t a, uint32_t b) {
    const int order = bytes_of(a).compare(bytes_of(b));
    return order != 0 ? order < 0 : a < b;
  });
}

std::optional<uint32_t> TokenIndex::find(std::string_view bytes) const {
  if (bytes.empty() || bytes.size() > longest_) return std::nullopt;
  const uint8_t lead = static_cast<uint8_t>(bytes[0]);
  const auto end = ids_.begin() + first_[lead + 1u];
  const auto found = std::lower_bound(ids_.begin() + first_[lead], end, bytes,
                                      [&](uint32_t id, std::string_view wanted) { return bytes_of(id) < wanted; });
  if (found == end || bytes_of(*found) != bytes) return std::nullopt;
  return *found;
}

}  // namespace nwc
