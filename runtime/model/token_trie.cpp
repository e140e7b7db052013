#include "runtime/model/token_trie.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {

Result<TokenTrie> TokenTrie::create(const std::vector<TokenizerRecord::Token>& tokens,
                                    std::initializer_list<TokenType> types) {
  std::vector<uint32_t> ids;
  uint64_t total = 0;
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].bytes.empty() || std::find(types.begin(), types.end(), tokens[id].type) == types.end()) continue;
    total += tokens[id].bytes.size();
    ids.push_back(id);
  }
  if (total > kMaxBytes) return limit_error(str_cat("the tokens have more than ", kMaxBytes, " bytes together"));
  std::sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) {
    const int order = tokens[a].bytes.compare(tokens[b].bytes);
    return order != 0 ? order < 0 : a < b;
  });

  struct Range {
    uint32_t begin, end;  ///< the tokens that begin with a node's bytes
  };
  TokenTrie trie;
  std::vector<Range> level = {{0, static_cast<uint32_t>(ids.size())}}, next;
  trie.byte_.push_back(0);
  for (size_t depth = 0; !level.empty(); ++depth, level.swap(next)) {
    next.clear();
    for (Range range : level) {
      const auto ends = [&] { return range.begin != range.end && tokens[ids[range.begin]].bytes.size() == depth; };
      trie.token_.push_back(ends() ? ids[range.begin] : kNone);
      while (ends()) ++range.begin;
      trie.first_child_.push_back(static_cast<uint32_t>(trie.byte_.size()));
      while (range.begin != range.end) {
        const char byte = tokens[ids[range.begin]].bytes[depth];
        uint32_t end = range.begin;
        while (end != range.end && tokens[ids[end]].bytes[depth] == byte) ++end;
        next.push_back({range.begin, end});
        range.begin = end;
        if (depth == 0) trie.from_root_[static_cast<uint8_t>(byte)] = static_cast<uint32_t>(trie.byte_.size());
        trie.byte_.push_back(static_cast<uint8_t>(byte));
      }
    }
  }
  trie.first_child_.push_back(static_cast<uint32_t>(trie.byte_.size()));
  return trie;
}

uint32_t TokenTrie::child(uint32_t node, uint8_t byte) const {
  if (node == kRoot) return from_root_[byte];
  const auto begin = byte_.begin() + first_child_[node], end = byte_.begin() + first_child_[node + 1u];
  const auto found = std::lower_bound(begin, end, byte);
  return found == end || *found != byte ? kRoot : static_cast<uint32_t>(found - byte_.begin());
}

}  // namespace nwc
