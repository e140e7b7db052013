// Tokens by their bytes: a sorted list of ids, so that no choice of tokens makes a look-up slow.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/format/tokenizer_record.h"

namespace nwc {

class TokenIndex {
 public:
  /// Indexes the tokens of the types in `types` that are not empty. `tokens` must outlive the index.
  TokenIndex(const std::vector<TokenizerRecord::Token>& tokens, std::initializer_list<TokenType> types);

  /// The token with exactly these bytes; of several the lowest id.
  std::optional<uint32_t> find(std::string_view bytes) const;

 private:
  std::string_view bytes_of(uint32_t id) const { return (*tokens_)[id].bytes; }

  const std::vector<TokenizerRecord::Token>* tokens_;
  std::vector<uint32_t> ids_;          ///< by bytes, then by id
  std::array<uint32_t, 257> first_{};  ///< tokens that start with byte b: [first_[b], first_[b + 1])
  size_t longest_ = 0;
};

}  // namespace nwc
