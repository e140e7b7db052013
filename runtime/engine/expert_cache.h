// Which experts of a mixture lie decoded in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nwc {

/// What a session's experts cost so far.
struct ExpertStats {
  uint64_t hits = 0;                           ///< experts that a batch of tokens needed and that lay in memory
  uint64_t misses = 0;                         ///< that had to be decoded
  uint64_t bytes_read = 0;                     ///< of the file, for them
  double stall_seconds = 0;                    ///< in which the tokens waited for them
  double read_seconds = 0;                     ///< of these, those in which nothing was there to be decoded
  uint64_t predicted = 0, predicted_used = 0;  ///< experts whose bytes were asked for in advance; of those, needed ones
};

/// A table of slots, of which each holds one expert; what was used longest ago makes way. Experts are numbered over all
/// layers. Nothing here is thread-safe.
class ExpertCache {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  ExpertCache(uint64_t experts, uint32_t slots);

  uint32_t slots() const { return static_cast<uint32_t>(expert_in_.size()); }
  /// Where an expert lies, or kNone.
  uint32_t find(uint64_t expert) const { return slot_of_[static_cast<size_t>(expert)]; }
  /// This slot's expert is being used now.
  void touch(uint32_t slot);
  /// A slot for an expert that has none: the one that was touched longest ago, whose expert is in memory no longer.
  /// The new one counts as touched. Callers touch what they need before they place what they lack: as long as both
  /// together are at most slots(), nothing that is needed makes way.
  uint32_t place(uint64_t expert);
  /// Decoding it failed: the slot holds nothing, and is the next to be placed in.
  void drop(uint64_t expert);

 private:
  void unlink(uint32_t slot);
  void link_behind(uint32_t slot, uint32_t before);

  // The slots in the order of their last use, a ring through one more element, number slots(): behind it comes the
  // newest, in front of it the oldest.
  std::vector<uint32_t> newer_, older_;
  std::vector<uint64_t> expert_in_;
  std::vector<uint32_t> slot_of_;
};

}  // namespace nwc
