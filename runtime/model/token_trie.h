// Tokens as a trie, to find all of them that a text begins with.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

class TokenTrie {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint64_t kMaxBytes = 32u << 20;

  /// Of the tokens of the types in `types` that are not empty; of equal ones the lowest id. It takes 9 bytes for each
  /// byte of the tokens at most. errors: kLimit (together more than kMaxBytes)
  static Result<TokenTrie> create(const std::vector<TokenizerRecord::Token>& tokens,
                                  std::initializer_list<TokenType> types);

  static constexpr uint32_t kRoot = 0;
  /// The node that `byte` leads to from `node`; kRoot: none.
  uint32_t child(uint32_t node, uint8_t byte) const;
  /// The token that ends at a node, or kNone.
  uint32_t token(uint32_t node) const { return token_[node]; }

 private:
  // Nodes in order of depth; the children of a node lie side by side, in order of their bytes.
  std::vector<uint32_t> first_child_;  ///< of node i: [first_child_[i], first_child_[i + 1])
  std::vector<uint8_t> byte_;
  std::vector<uint32_t> token_;
  std::array<uint32_t, 256> from_root_{};
};

}  // namespace nwc
