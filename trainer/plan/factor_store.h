// Keeps the factors of Hessians, which take longer to make than to read: in memory while they fit, then in a file.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trainer/data/scratch_file.h"
#include "trainer/search/error_feedback.h"

namespace nwc {

class FactorStore {
 public:
  /// folder: for what does not fit memory_bytes; empty: that is not kept.
  FactorStore(std::string folder, uint64_t memory_bytes) : folder_(std::move(folder)), memory_left_(memory_bytes) {}

  /// A number for factors of [n][n] that the store has or will have, from 0.
  void resize(size_t count) { entries_.resize(count); }
  /// Takes entries with new numbers along. from[i] is the old number of entry i, and ascends.
  void renumber(const std::vector<size_t>& from);

  /// Keeps factors with U. Where the file cannot be written, they are not kept, and trouble() says why.
  void put(size_t number, std::shared_ptr<const FeedbackFactors> factors);
  /// Null: not kept. errors: kIo
  Result<std::shared_ptr<const FeedbackFactors>> get(size_t number) const;

  /// The reason why not all are kept though there is a folder, or empty.
  const std::string& trouble() const { return trouble_; }
  /// What a file takes for factors of [n][n]: the triangle of U.
  static uint64_t file_bytes(uint64_t n) { return n * (n + 1) / 2 * sizeof(float); }
  /// What the file takes of factors of these sizes, put in this order into a store of so much memory.
  static uint64_t file_bytes(std::span<const uint64_t> sizes, uint64_t memory_bytes_left);
  static uint64_t memory_bytes(uint64_t n) { return n * n * sizeof(float); }

 private:
  struct Entry {
    std::shared_ptr<const FeedbackFactors> held;     ///< in memory
    std::shared_ptr<const FeedbackFactors> in_file;  ///< all but U, which is in the file at
    uint64_t offset = 0;
  };
  Status write(const FeedbackFactors& factors, Entry* entry);

  std::string folder_, trouble_;
  uint64_t memory_left_;
  std::optional<ScratchFile> file_;
  std::vector<Entry> entries_;
};

}  // namespace nwc
