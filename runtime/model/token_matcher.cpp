#include "runtime/model/token_matcher.h"

#include <algorithm>

namespace nwc {
namespace {

/// The tokens that begin with a node's bytes.
struct Range {
  uint32_t begin, end;
};

}  // namespace

Result<TokenMatcher> TokenMatcher::create(const std::vector<TokenizerRecord::Token>& tokens,
                                          std::initializer_list<TokenType> types) {
  std::vector<Text> texts;
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    if (std::find(types.begin(), types.end(), tokens[id].type) != types.end()) texts.push_back({tokens[id].bytes, id});
  }
  return create(std::move(texts));
}

Result<TokenMatcher> TokenMatcher::create(std::vector<Text> sorted) {
  TokenMatcher m;
  uint64_t total = 0;
  std::erase_if(sorted, [](const Text& text) { return text.bytes.empty(); });
  for (Text& text : sorted) {
    total += text.bytes.size();
    if (total > kMaxBytes)
      return limit_error(
          str_cat("the tokenizer's control and user-defined tokens have more than ", kMaxBytes, " bytes together"));
    std::reverse(text.bytes.begin(), text.bytes.end());
    m.longest_ = std::max(m.longest_, text.bytes.size());
  }
  std::sort(sorted.begin(), sorted.end(), [](const Text& a, const Text& b) {
    const int order = a.bytes.compare(b.bytes);
    return order != 0 ? order < 0 : a.id < b.id;
  });
  const auto same = [](const Text& a, const Text& b) { return a.bytes == b.bytes; };
  sorted.erase(std::unique(sorted.begin(), sorted.end(), same), sorted.end());

  std::vector<Range> level = {{0, static_cast<uint32_t>(sorted.size())}}, next;
  m.byte_.push_back(0);
  m.fallback_.push_back(0);
  for (size_t depth = 0, node = 0; !level.empty(); ++depth, level.swap(next)) {
    next.clear();
    for (Range range : level) {
      const bool is_token = range.begin != range.end && sorted[range.begin].bytes.size() == depth;
      // What falls back is less deep: its entries are there already.
      m.best_.push_back(is_token ? sorted[range.begin++].id : depth == 0 ? kNone : m.best_[m.fallback_[node]]);
      m.first_child_.push_back(static_cast<uint32_t>(m.byte_.size()));
      while (range.begin != range.end) {
        const uint8_t byte = static_cast<uint8_t>(sorted[range.begin].bytes[depth]);
        uint32_t end = range.begin;
        while (end != range.end && static_cast<uint8_t>(sorted[end].bytes[depth]) == byte) ++end;
        next.push_back({range.begin, end});
        range.begin = end;
        const uint32_t made = static_cast<uint32_t>(m.byte_.size());
        m.byte_.push_back(byte);
        if (depth == 0) m.from_root_[byte] = made;
        uint32_t back = 0;
        for (uint32_t from = static_cast<uint32_t>(node); from != 0 && back == 0;) {
          from = m.fallback_[from];
          back = m.child(from, byte);
        }
        m.fallback_.push_back(back);
      }
      ++node;
    }
  }
  m.first_child_.push_back(static_cast<uint32_t>(m.byte_.size()));
  return m;
}

uint32_t TokenMatcher::child(uint32_t node, uint8_t byte) const {
  if (node == 0) return from_root_[byte];
  const auto begin = byte_.begin() + first_child_[node], end = byte_.begin() + first_child_[node + 1u];
  const auto found = std::lower_bound(begin, end, byte);
  return found == end || *found != byte ? 0 : static_cast<uint32_t>(found - byte_.begin());
}

uint64_t TokenMatcher::find(std::string_view text, size_t begin, std::span<uint32_t> ids) const {
  const size_t end = begin + ids.size();
  uint64_t steps = 0;
  uint32_t node = 0;
  // From where the last token that begins in front of `end` may end.
  for (size_t pos = std::min(text.size(), end + longest_); pos-- > begin;) {
    const uint8_t byte = static_cast<uint8_t>(text[pos]);
    uint32_t to = child(node, byte);
    for (++steps; to == 0 && node != 0; ++steps) {
      node = fallback_[node];
      to = child(node, byte);
    }
    node = to;
    if (pos < end) ids[pos - begin] = best_[node];
  }
  return steps;
}

}  // namespace nwc
