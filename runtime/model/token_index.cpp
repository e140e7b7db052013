#include "runtime/model/token_index.h"

#include <algorithm>

namespace nwc {
namespace {

/// The order of most tokens follows from their first eight bytes: sorting these costs no look at the tokens.
struct SortKey {
  uint64_t front;  ///< big-endian, 0 behind the end
  uint32_t id;
};

/// Stable, in time that no choice of tokens changes.
void sort_by_front(std::vector<SortKey>* keys) {
  std::vector<SortKey> sorted(keys->size());
  for (uint32_t shift = 0; shift < 64; shift += 8) {
    std::array<size_t, 256> end{};
    for (const SortKey& key : *keys) ++end[key.front >> shift & 255];
    if (std::find(end.begin(), end.end(), keys->size()) != end.end()) continue;  // all have the same byte here
    for (size_t b = 1; b < end.size(); ++b) end[b] += end[b - 1];
    for (size_t i = keys->size(); i-- > 0;) sorted[--end[(*keys)[i].front >> shift & 255]] = (*keys)[i];
    keys->swap(sorted);
  }
}

uint64_t front_of(std::string_view bytes) {
  uint64_t front = 0;
  for (size_t i = 0; i < 8; ++i) front = front << 8 | (i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0u);
  return front;
}

}  // namespace

TokenIndex::TokenIndex(const std::vector<TokenizerRecord::Token>& tokens, std::initializer_list<TokenType> types)
    : tokens_(&tokens) {
  std::vector<SortKey> keys;
  keys.reserve(tokens.size());
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    const TokenizerRecord::Token& token = tokens[id];
    if (token.bytes.empty() || std::find(types.begin(), types.end(), token.type) == types.end()) continue;
    if ((token.options & TokenizerRecord::kDecodesOnly) != 0) continue;
    keys.push_back({front_of(token.bytes), id});
    ++first_[static_cast<uint8_t>(token.bytes[0]) + 1u];
    longest_ = std::max(longest_, token.bytes.size());
  }
  for (size_t b = 1; b < first_.size(); ++b) first_[b] += first_[b - 1];
  // std::string compares as unsigned bytes, as first_ and the keys do.
  sort_by_front(&keys);
  for (auto begin = keys.begin(); begin != keys.end();) {
    const auto end = std::find_if(begin, keys.end(), [&](const SortKey& key) { return key.front != begin->front; });
    if (end - begin > 1) {
      std::sort(begin, end, [&](const SortKey& a, const SortKey& b) {
        const int order = bytes_of(a.id).compare(bytes_of(b.id));
        return order != 0 ? order < 0 : a.id < b.id;
      });
    }
    begin = end;
  }
  ids_.reserve(keys.size());
  for (const SortKey& key : keys) ids_.push_back(key.id);
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
