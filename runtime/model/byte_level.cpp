// Byte-level BPE: every byte has a token, merges go by pairs of ids within the pieces of the pre-tokenizer.
#include <array>

#include "runtime/base/str_cat.h"
#include "runtime/model/bpe.h"
#include "runtime/model/pre_tokenizer.h"
#include "runtime/model/stretch_encoder.h"
#include "runtime/model/token_index.h"

namespace nwc {
namespace {

class ByteLevelEncoder final : public StretchEncoder {
 public:
  explicit ByteLevelEncoder(const TokenizerRecord& record)
      : record_(record), merges_(record), whole_pieces_(record.tokens, {TokenType::kNormal}) {
    byte_ids_.fill(kNoToken);
    for (uint32_t id = 0; id < record.tokens.size(); ++id) {
      const TokenizerRecord::Token& token = record.tokens[id];
      if ((token.options & TokenizerRecord::kDecodesOnly) != 0 || token.bytes.size() != 1 ||
          (token.type != TokenType::kNormal && token.type != TokenType::kByte))
        continue;
      uint32_t& slot = byte_ids_[static_cast<uint8_t>(token.bytes[0])];
      if (slot == kNoToken) slot = id;
    }
  }

  Status encode(std::string_view stretch, bool, std::vector<uint32_t>* ids) const override {
    std::string prefixed;
    if (record_.add_prefix_space && stretch[0] != ' ') {
      prefixed.reserve(stretch.size() + 1);
      prefixed.append(1, ' ').append(stretch);
      stretch = prefixed;
    }
    BpeMerger merger;
    PieceSplitter pieces(record_.pre_tokenizer, stretch);
    for (std::string_view piece = pieces.next(); !piece.empty(); piece = pieces.next()) {
      NWC_TRY(encode_piece(piece, &merger, ids));
    }
    return {};
  }

 private:
  Status encode_piece(std::string_view piece, BpeMerger* merger, std::vector<uint32_t>* ids) const {
    if (record_.ignore_merges) {
      if (const std::optional<uint32_t> id = whole_pieces_.find(piece)) {
        ids->push_back(*id);
        return {};
      }
    }
    merger->clear();
    for (uint32_t i = 0; i < piece.size(); ++i) {
      const uint8_t byte = static_cast<uint8_t>(piece[i]);
      if (byte_ids_[byte] == kNoToken) {
        return corrupt(str_cat("the tokenizer has no token for byte ", byte, " of the text"));
      }
      merger->push(i, 1, byte_ids_[byte]);
    }
    merger->run([&](const BpeSymbol& left, const BpeSymbol& right) { return merges_.find(left.id, right.id); });
    for (const BpeSymbol& symbol : merger->symbols()) {
      if (symbol.length != 0) ids->push_back(symbol.id);
    }
    return {};
  }

  const TokenizerRecord& record_;
  MergeTable merges_;
  TokenIndex whole_pieces_;
  std::array<uint32_t, 256> byte_ids_{};
};

}  // namespace

Result<std::unique_ptr<StretchEncoder>> make_byte_level_encoder(const TokenizerRecord& record) {
  return std::unique_ptr<StretchEncoder>(std::make_unique<ByteLevelEncoder>(record));
}

}  // namespace nwc
