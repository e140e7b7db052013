// The longest token that starts at each place of a text, in time that does not depend on the tokens: what finds control
// and user-defined tokens.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

/// An automaton of Aho and Corasick (1975) over the reversed tokens. Reading a text from its end, it stands in front of
/// every place at the longest stretch that can still be a token, and so knows the longest token that starts there. It
/// takes 14 bytes for each byte of the tokens at most.
class TokenMatcher {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint64_t kMaxBytes = 16u << 20;

  struct Text {
    std::string bytes;
    uint32_t id;
  };
  /// For texts, each with the id that stands for it; empty ones are passed over, and of equal ones the lowest id
  /// counts. errors: kLimit (together more than kMaxBytes)
  static Result<TokenMatcher> create(std::vector<Text> texts);
  /// For the tokens of the types in `types`.
  static Result<TokenMatcher> create(const std::vector<TokenizerRecord::Token>& tokens,
                                     std::initializer_list<TokenType> types);

  bool empty() const { return longest_ == 0; }
  size_t longest() const { return longest_; }  ///< bytes of the longest token
  /// ids[i]: the longest token that text starts with at begin + i (of equal ones the lowest id), or kNone. The places
  /// are inside the text. Returns the number of steps: at most 2 (ids.size() + longest()).
  uint64_t find(std::string_view text, size_t begin, std::span<uint32_t> ids) const;

 private:
  uint32_t child(uint32_t node, uint8_t byte) const;  ///< 0: none

  // Nodes in order of depth, 0 the root; the children of a node lie side by side, in order of their bytes.
  std::vector<uint32_t> first_child_;  ///< of node i: [first_child_[i], first_child_[i + 1])
  std::vector<uint8_t> byte_;          ///< that leads to a node
  std::vector<uint32_t> fallback_;     ///< the node of the longest proper suffix
  std::vector<uint32_t> best_;         ///< the longest token that ends here, or kNone
  std::array<uint32_t, 256> from_root_{};
  size_t longest_ = 0;
};

}  // namespace nwc
