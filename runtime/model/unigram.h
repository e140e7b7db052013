// Unigram language models: the likeliest way to make a text of tokens.
#pragma once

#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"
#include "runtime/model/token_trie.h"

namespace nwc {

class Unigram {
 public:
  /// The record must outlive this. errors: kLimit (of TokenTrie)
  static Result<Unigram> create(const TokenizerRecord& record);

  struct Piece {
    uint32_t begin, end;
    uint32_t id;  ///< TokenTrie::kNone: characters that no token stands for
  };
  /// The tokens of a text by Viterbi's algorithm, neighbouring unknown characters as one; of equal paths to a place the
  /// one whose last token is longest, as in tokenizers. In time of the text's length times that of the longest token.
  void encode(std::string_view text, std::vector<Piece>* pieces) const;

 private:
  explicit Unigram(const TokenizerRecord* record, TokenTrie trie) : record_(record), trie_(std::move(trie)) {}

  const TokenizerRecord* record_;
  TokenTrie trie_;
  double unknown_score_ = 0;
};

}  // namespace nwc
