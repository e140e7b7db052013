// SentencePiece's compiled map of characters: a double-array trie from short texts to their replacements.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"

namespace nwc {

class Charsmap {
 public:
  /// u32 size of the trie, its units of u32, then replacements that end with a NUL. `bytes` must outlive this.
  /// Errors: kCorrupt
  static Result<Charsmap> create(Bytes bytes);

  /// As tokenizers' Precompiled: grapheme clusters of less than 6 bytes are looked up as a whole, where the shortest
  /// text that they begin with counts, then the characters of those that are not found, and of longer ones. Stops soon
  /// above `limit` bytes, so that a hostile map cannot make more.
  std::string apply(std::string_view text, size_t limit) const;

 private:
  std::optional<std::string_view> replacement(std::string_view key) const;
  uint32_t unit(size_t index) const { return index < num_units_ ? load_le<uint32_t>(units_ + 4 * index) : 0; }

  const uint8_t* units_ = nullptr;
  size_t num_units_ = 0;
  std::string_view texts_;
};

}  // namespace nwc
