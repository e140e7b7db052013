// The merging loop of byte-pair encoding: O(n log n) with a heap of candidates over a linked list of symbols.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "runtime/format/tokenizer_record.h"

namespace nwc {

constexpr uint32_t kNoToken = UINT32_MAX;

/// What two neighbours become. The lowest rank merges first.
struct BpeMerge {
  uint32_t rank = 0;
  uint32_t result = 0;
};

/// Merges by pair of token ids.
class MergeTable {
 public:
  /// If a pair occurs twice, the first occurrence counts.
  explicit MergeTable(const TokenizerRecord& record);
  std::optional<BpeMerge> find(uint32_t left, uint32_t right) const;

 private:
  struct Entry {
    uint32_t right, rank, result;
  };
  std::vector<uint32_t> first_;  ///< entries of left token t: [first_[t], first_[t + 1]), by right token
  std::vector<Entry> entries_;
};

/// Part of a text and the token that stands for it.
struct BpeSymbol {
  uint32_t start = 0;
  uint32_t length = 0;  ///< bytes, 0: merged into the symbol before it
  uint32_t id = kNoToken;
  uint32_t prev = 0, next = 0;  ///< indices, kNoToken: none
};

/// Holds one sequence at a time; its memory is used again by the next.
class BpeMerger {
 public:
  void clear() { symbols_.clear(); }
  /// The next symbol of the sequence. At most 2^31 symbols; length > 0, or it counts as merged away.
  void push(uint32_t start, uint32_t length, uint32_t id) {
    const uint32_t index = static_cast<uint32_t>(symbols_.size());
    if (index != 0) symbols_.back().next = index;
    symbols_.push_back({start, length, id, index == 0 ? kNoToken : index - 1, kNoToken});
  }
  /// Merges until no neighbours can: lowest rank first, then leftmost.
  /// find(left, right): std::optional<BpeMerge> of two BpeSymbols.
  template <typename Find>
  void run(const Find& find);
  /// After run(), those of length 0 are to be skipped.
  const std::vector<BpeSymbol>& symbols() const { return symbols_; }

 private:
  struct Candidate {
    uint64_t key;     ///< rank, then index of the left symbol
    uint32_t length;  ///< of both symbols together: a symbol only grows, so this tells a stale candidate
    uint32_t result;
    bool operator>(const Candidate& other) const { return key > other.key; }
  };
  template <typename Find>
  bool make_candidate(const Find& find, uint32_t left, Candidate* out) const;

  std::vector<BpeSymbol> symbols_;
  std::vector<Candidate> heap_;
};

template <typename Find>
bool BpeMerger::make_candidate(const Find& find, uint32_t left, Candidate* out) const {
  const BpeSymbol& a = symbols_[left];
  if (a.next == kNoToken) return false;
  const BpeSymbol& b = symbols_[a.next];
  const std::optional<BpeMerge> merge = find(a, b);
  if (!merge) return false;
  *out = {static_cast<uint64_t>(merge->rank) << 32 | left, a.length + b.length, merge->result};
  return true;
}

template <typename Find>
void BpeMerger::run(const Find& find) {
  heap_.clear();
  Candidate candidate{};
  for (uint32_t i = 0; i < symbols_.size(); ++i) {
    if (make_candidate(find, i, &candidate)) heap_.push_back(candidate);
  }
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  const auto push = [&](uint32_t left) {
    if (!make_candidate(find, left, &candidate)) return;
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const Candidate best = heap_.back();
    heap_.pop_back();
    const uint32_t index = static_cast<uint32_t>(best.key);
    BpeSymbol& left = symbols_[index];
    if (left.length == 0 || left.next == kNoToken) continue;
    BpeSymbol& right = symbols_[left.next];
    if (left.length + right.length != best.length) continue;
    left.length = best.length;
    left.id = best.result;
    left.next = right.next;
    right.length = 0;
    if (left.next != kNoToken) symbols_[left.next].prev = index;
    if (left.prev != kNoToken) push(left.prev);
    push(index);
  }
}

}  // namespace nwc
