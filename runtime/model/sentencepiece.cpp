// SentencePiece: works on characters. BPE merges by the scores of the resulting tokens, or by a list of merges where
// the record has one; Unigram takes the likeliest tokens. Characters without a token become byte tokens or the unknown
// token.
#include <array>
#include <numeric>
#include <optional>

#include "runtime/model/bpe.h"
#include "runtime/model/pre_tokenizer.h"
#include "runtime/model/stretch_encoder.h"
#include "runtime/model/token_index.h"
#include "runtime/model/unicode.h"
#include "runtime/model/unigram.h"

namespace nwc {
namespace {

constexpr uint32_t kSpaceSymbol = 0x2581;

/// rank[id]: 0 for the highest score; equal scores have equal ranks. Of normal tokens, as pieces become no others.
std::vector<uint32_t> rank_by_score(const std::vector<TokenizerRecord::Token>& tokens) {
  struct Scored {
    double score;
    uint32_t id;
  };
  std::vector<Scored> order;
  order.reserve(tokens.size());
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].type == TokenType::kNormal) order.push_back({tokens[id].score, id});
  }
  const auto higher = [](const Scored& a, const Scored& b) { return a.score > b.score; };
  // Most vocabularies are in that order.
  if (!std::is_sorted(order.begin(), order.end(), higher)) std::sort(order.begin(), order.end(), higher);
  std::vector<uint32_t> rank(tokens.size());
  for (uint32_t i = 1; i < order.size(); ++i) {
    rank[order[i].id] = order[i].score == order[i - 1].score ? rank[order[i - 1].id] : i;
  }
  return rank;
}

class SentencePieceEncoder final : public StretchEncoder {
 public:
  SentencePieceEncoder(const TokenizerRecord& record, std::optional<Unigram> unigram)
      : record_(record), merges_(record), normal_(record.tokens, {TokenType::kNormal}), unigram_(std::move(unigram)) {
    if (record.merges.empty() && !unigram_) score_rank_ = rank_by_score(record.tokens);
    find_joins();
    for (uint32_t id = static_cast<uint32_t>(record.tokens.size()); id-- > 0;) {
      const TokenizerRecord::Token& token = record.tokens[id];
      if (token.type == TokenType::kByte) byte_ids_[static_cast<uint8_t>(token.bytes[0])] = id;
    }
  }

  Status encode(std::string_view stretch, bool begins_text, std::vector<uint32_t>* ids) const override {
    if (record_.pre_tokenizer == PreTokenizer::kWords) {
      // Each word is a text with a prefix of its own.
      PieceSplitter words(PreTokenizer::kWords, stretch);
      for (std::string_view word = words.next(); !word.empty(); word = words.next()) {
        NWC_TRY(encode_piece(add_prefix(word, begins_text && word.data() == stretch.data()), ids));
      }
      return {};
    }
    const std::string text = add_prefix(stretch, begins_text);
    PieceSplitter pieces(record_.pre_tokenizer, text);
    for (std::string_view piece = pieces.next(); !piece.empty(); piece = pieces.next()) {
      NWC_TRY(encode_piece(piece, ids));
    }
    return {};
  }

 private:
  /// Which bytes may be merged with a space behind them. Where none can, a text falls into words that have nothing to
  /// do with each other, and a short heap of candidates is fast.
  void find_joins() {
    for (const TokenizerRecord::Token& token : record_.tokens) {
      if (token.type != TokenType::kNormal) continue;
      for (size_t at = token.bytes.find(' ', 1); at < token.bytes.size(); at = token.bytes.find(' ', at + 1))
        joins_[static_cast<uint8_t>(token.bytes[at - 1])] = true;
    }
    // Merges that a hostile record has may make anything of anything.
    for (const TokenizerRecord::Merge& merge : record_.merges) {
      const TokenizerRecord::Token &left = record_.tokens[merge.left], &right = record_.tokens[merge.right];
      const TokenizerRecord::Token& result = record_.tokens[merge.result];
      if (result.type != TokenType::kNormal || result.bytes != left.bytes + right.bytes) joins_.fill(true);
    }
  }

  Status encode_piece(std::string_view text, std::vector<uint32_t>* ids) const {
    if (unigram_) return encode_unigram(text, ids);
    BpeMerger merger;
    bool after_unknown = false;
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      do {
        end = std::min(text.find(' ', end + 1), text.size());
      } while (end < text.size() && joins_[static_cast<uint8_t>(text[end - 1])]);
      NWC_TRY(encode_word(text.substr(begin, end - begin), &merger, &after_unknown, ids));
    }
    return {};
  }

  Status encode_word(std::string_view text, BpeMerger* merger, bool* after_unknown, std::vector<uint32_t>* ids) const {
    merger->clear();
    for (size_t pos = 0; pos < text.size();) {
      const CodePoint c = decode_utf8(text, pos);
      NWC_TRY(push_character(text, pos, c.length, merger));
      pos += c.length;
    }
    if (score_rank_.empty()) {
      merger->run([&](const BpeSymbol& left, const BpeSymbol& right) { return merges_.find(left.id, right.id); });
    } else {
      merger->run([&](const BpeSymbol& left, const BpeSymbol& right) -> std::optional<BpeMerge> {
        const std::string_view both(text.data() + left.start, size_t{left.length} + right.length);
        const std::optional<uint32_t> id = normal_.find(both);
        if (!id) return std::nullopt;
        return BpeMerge{score_rank_[*id], *id};
      });
    }
    return append_ids(text, *merger, after_unknown, ids);
  }

  Status encode_unigram(std::string_view text, std::vector<uint32_t>* ids) const {
    std::vector<Unigram::Piece> pieces;
    unigram_->encode(text, &pieces);
    for (const Unigram::Piece& piece : pieces) {
      if (piece.id != TokenTrie::kNone) {
        ids->push_back(piece.id);
      } else if (record_.byte_fallback) {
        append_bytes(text.substr(piece.begin, piece.end - piece.begin), ids);
      } else {
        ids->push_back(record_.unk_id);
      }
    }
    return {};
  }

  void append_bytes(std::string_view bytes, std::vector<uint32_t>* ids) const {
    for (const char byte : bytes) ids->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  }

  std::string add_prefix(std::string_view stretch, bool begins_text) const {
    std::string text;
    text.reserve(stretch.size() + 1);
    const bool prefixed = record_.add_prefix_space && (begins_text || !record_.prefix_first_only);
    if (prefixed) text.push_back(' ');
    for (size_t pos = 0; pos < stretch.size();) {
      const CodePoint c = decode_utf8(stretch, pos);
      // The vocabulary's symbol for a space, written out in the text, cannot be told from one.
      if (c.value == kSpaceSymbol) {
        text.push_back(' ');
      } else {
        text.append(stretch.substr(pos, c.length));
      }
      pos += c.length;
    }
    if (prefixed && record_.prefix_unless_space && text.size() > 1 && text[1] == ' ') text.erase(0, 1);
    return text;
  }

  /// With merges a character without a token falls back at once, as in tokenizers; with scores it may still become part
  /// of a longer token, as in SentencePiece.
  Status push_character(std::string_view text, size_t pos, uint32_t length, BpeMerger* merger) const {
    const uint32_t start = static_cast<uint32_t>(pos);
    const std::optional<uint32_t> id = normal_.find(text.substr(pos, length));
    if (!id && record_.byte_fallback && score_rank_.empty()) {
      for (uint32_t i = 0; i < length; ++i) {
        merger->push(start + i, 1, byte_ids_[static_cast<uint8_t>(text[pos + i])]);
      }
      return {};
    }
    merger->push(start, length, id.value_or(kNoToken));
    return {};
  }

  /// *after_unknown: of the symbol before the text, and then of its last one.
  Status append_ids(std::string_view text, const BpeMerger& merger, bool* after_unknown,
                    std::vector<uint32_t>* ids) const {
    for (const BpeSymbol& symbol : merger.symbols()) {
      if (symbol.length == 0) continue;
      const bool unknown = symbol.id == kNoToken && !record_.byte_fallback;
      if (symbol.id != kNoToken) {
        ids->push_back(symbol.id);
      } else if (record_.byte_fallback) {
        append_bytes(text.substr(symbol.start, symbol.length), ids);
      } else if (record_.unk_id == kNoToken) {
        return corrupt("the tokenizer has no token for a character of the text, and no unknown token");
      } else if (!*after_unknown || record_.unfused_unknown) {
        ids->push_back(record_.unk_id);
      }
      *after_unknown = unknown;
    }
    return {};
  }

  const TokenizerRecord& record_;
  MergeTable merges_;
  TokenIndex normal_;
  std::optional<Unigram> unigram_;
  std::vector<uint32_t> score_rank_;  ///< empty: merges decide
  std::array<uint32_t, 256> byte_ids_{};
  std::array<bool, 256> joins_{};
};

}  // namespace

Result<std::unique_ptr<StretchEncoder>> make_sentencepiece_encoder(const TokenizerRecord& record) {
  std::optional<Unigram> unigram;
  if (record.kind == TokenizerKind::kUnigram) {
    NWC_ASSIGN_OR_RETURN(unigram, Unigram::create(record));
  }
  return std::unique_ptr<StretchEncoder>(std::make_unique<SentencePieceEncoder>(record, std::move(unigram)));
}

}  // namespace nwc
