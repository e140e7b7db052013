#include "runtime/model/bpe.h"

namespace nwc {

MergeTable::MergeTable(const TokenizerRecord& record) : first_(record.tokens.size() + 1) {
  const std::vector<TokenizerRecord::Merge>& merges = record.merges;
  for (const auto& merge : merges) ++first_[merge.left + 1];
  for (size_t t = 1; t < first_.size(); ++t) first_[t] += first_[t - 1];
  // A counting sort by left token, then each token's entries by right token and rank.
  entries_ = std::vector<Entry>(merges.size());
  std::vector<uint32_t> at(first_.begin(), first_.end() - 1);
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    entries_[at[merges[rank].left]++] = {merges[rank].right, rank, merges[rank].result};
  }
  for (size_t t = 0; t + 1 < first_.size(); ++t) {
    std::sort(entries_.begin() + first_[t], entries_.begin() + first_[t + 1],
              [](const Entry& a, const Entry& b) { return a.right != b.right ? a.right < b.right : a.rank < b.rank; });
  }
}

std::optional<BpeMerge> MergeTable::find(uint32_t left, uint32_t right) const {
  if (left >= first_.size() - 1) return std::nullopt;
  const auto end = entries_.begin() + first_[left + 1];
  const auto entry = std::lower_bound(entries_.begin() + first_[left], end, right,
                                      [](const Entry& e, uint32_t wanted) { return e.right < wanted; });
  if (entry == end || entry->right != right) return std::nullopt;
  return BpeMerge{entry->rank, entry->result};
}

}  // namespace nwc
