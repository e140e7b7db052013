#include "runtime/model/unigram.h"

#include <algorithm>

#include "runtime/model/unicode.h"

namespace nwc {

Result<Unigram> Unigram::create(const TokenizerRecord& record) {
  NWC_ASSIGN_OR_RETURN(TokenTrie trie, TokenTrie::create(record.tokens, {TokenType::kNormal}));
  Unigram unigram(&record, std::move(trie));
  constexpr double kUnknownPenalty = 10;
  double least = 0;
  for (const TokenizerRecord::Token& token : record.tokens) {
    if (token.type == TokenType::kNormal) least = std::min(least, token.score);
  }
  unigram.unknown_score_ = least - kUnknownPenalty;
  return unigram;
}

void Unigram::encode(std::string_view text, std::vector<Piece>* pieces) const {
  struct Best {
    double score = 0;
    uint32_t begin = 0;
    uint32_t id = TokenTrie::kNone;
    bool reached = false;
  };
  std::vector<Best> best(text.size() + 1);  // of the paths that end in front of each byte
  const auto offer = [&](size_t end, double score, size_t begin, uint32_t id) {
    if (best[end].reached && score <= best[end].score) return;
    best[end] = {score, static_cast<uint32_t>(begin), id, true};
  };
  for (size_t begin = 0; begin < text.size();) {
    const uint32_t length = decode_utf8(text, begin).length;
    const double score = best[begin].score;
    bool has_character = false;
    uint32_t node = TokenTrie::kRoot;
    for (size_t end = begin; end < text.size();) {
      node = trie_.child(node, static_cast<uint8_t>(text[end++]));
      if (node == TokenTrie::kRoot) break;
      const uint32_t id = trie_.token(node);
      if (id == TokenTrie::kNone) continue;
      offer(end, score + record_->tokens[id].score, begin, id);
      has_character = has_character || end - begin == length;
    }
    if (!has_character) offer(begin + length, score + unknown_score_, begin, TokenTrie::kNone);
    begin += length;
  }
  const size_t first = pieces->size();
  for (size_t end = text.size(); end > 0; end = best[end].begin) {
    const Best& b = best[end];
    Piece* last = pieces->size() > first ? &pieces->back() : nullptr;
    if (b.id == TokenTrie::kNone && last != nullptr && last->id == TokenTrie::kNone) {
      last->begin = b.begin;
    } else {
      pieces->push_back({b.begin, static_cast<uint32_t>(end), b.id});
    }
  }
  std::reverse(pieces->begin() + static_cast<ptrdiff_t>(first), pieces->end());
}

}  // namespace nwc
