// WordPiece: each word is cut into the longest tokens from its front. Tokens that begin a word begin with a space.
#include "runtime/model/pre_tokenizer.h"
#include "runtime/model/stretch_encoder.h"
#include "runtime/model/token_trie.h"

namespace nwc {
namespace {

class WordPieceEncoder final : public StretchEncoder {
 public:
  WordPieceEncoder(const TokenizerRecord& record, TokenTrie trie) : record_(record), trie_(std::move(trie)) {}

  Status encode(std::string_view stretch, bool, std::vector<uint32_t>* ids) const override {
    PieceSplitter words(record_.pre_tokenizer, stretch);
    for (std::string_view word = words.next(); !word.empty(); word = words.next()) encode_word(word, ids);
    return {};
  }

 private:
  void encode_word(std::string_view word, std::vector<uint32_t>* ids) const {
    const size_t begin = ids->size();
    bool known = !is_long(word);
    for (size_t pos = 0; known && pos < word.size();) {
      uint32_t node = TokenTrie::kRoot, longest = TokenTrie::kNone;
      if (pos == 0) node = trie_.child(node, ' ');
      size_t longest_end = pos;
      for (size_t end = pos; end < word.size() && (node != TokenTrie::kRoot || (end == pos && pos != 0));) {
        node = trie_.child(node, static_cast<uint8_t>(word[end++]));
        if (node == TokenTrie::kRoot) break;
        if (trie_.token(node) == TokenTrie::kNone) continue;
        longest = trie_.token(node);
        longest_end = end;
      }
      known = longest != TokenTrie::kNone;
      if (known) ids->push_back(longest);
      pos = longest_end;
    }
    if (known) return;
    ids->resize(begin);
    ids->push_back(record_.unk_id);
  }

  bool is_long(std::string_view word) const {
    if (word.size() > 4u * record_.max_word_chars) return true;
    uint32_t chars = 0;
    for (size_t pos = 0; pos < word.size(); ++chars) pos += decode_utf8(word, pos).length;
    return chars > record_.max_word_chars;
  }

  const TokenizerRecord& record_;
  TokenTrie trie_;
};

}  // namespace

Result<std::unique_ptr<StretchEncoder>> make_wordpiece_encoder(const TokenizerRecord& record) {
  NWC_ASSIGN_OR_RETURN(TokenTrie trie, TokenTrie::create(record.tokens, {TokenType::kNormal}));
  return std::unique_ptr<StretchEncoder>(std::make_unique<WordPieceEncoder>(record, std::move(trie)));
}

}  // namespace nwc
