#include "trainer/data/bpe_merges.h"

namespace nwc {
namespace {

using Merge = TokenizerRecord::Merge;

Result<uint32_t> find_token(const TokenIds& ids, std::string_view text, size_t rank) {
  const auto it = ids.find(std::string(text));
  if (it == ids.end()) {
    return corrupt("merge " + std::to_string(rank) + ": \"" + std::string(text.substr(0, 200)) +
                   "\" is not in the vocabulary");
  }
  return it->second;
}

}  // namespace

Result<Merge> make_merge(const TokenIds& ids, std::string_view left, std::string_view right, size_t rank) {
  Merge merge;
  NWC_ASSIGN_OR_RETURN(merge.left, find_token(ids, left, rank));
  NWC_ASSIGN_OR_RETURN(merge.right, find_token(ids, right, rank));
  NWC_ASSIGN_OR_RETURN(merge.result, find_token(ids, std::string(left) + std::string(right), rank));
  return merge;
}

Result<Merge> parse_merge(const TokenIds& ids, std::string_view text, size_t rank) {
  const size_t space = text.find(' ');
  if (space == text.npos || space == 0 || space + 1 == text.size() || text.find(' ', space + 1) != text.npos) {
    return corrupt("merge " + std::to_string(rank) + " must be two tokens with a space between them");
  }
  return make_merge(ids, text.substr(0, space), text.substr(space + 1), rank);
}

}  // namespace nwc
