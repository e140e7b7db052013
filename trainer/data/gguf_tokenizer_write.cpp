#include "trainer/data/gguf_tokenizer_write.h"

#include <algorithm>

#include "trainer/data/gguf_tokenizer.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

const std::string kTokenizer = "tokenizer.ggml.";

constexpr int32_t kUnusedToken = 5;

int32_t type_number(TokenType type) {
  switch (type) {
    case TokenType::kNormal: return 1;
    case TokenType::kUnknown: return 2;
    case TokenType::kControl: return 3;
    case TokenType::kUserDefined: return 4;
    case TokenType::kByte: return 6;
  }
  return 1;
}

std::string token_text(const TokenizerRecord::Token& token, TokenizerKind kind) {
  if (token.type == TokenType::kByte && token.bytes.size() == 1) {
    return byte_token_text(static_cast<uint8_t>(token.bytes[0]));
  }
  if (kind == TokenizerKind::kSentencePieceBpe) return to_visible_space(token.bytes);
  const bool plain = token.type != TokenType::kNormal || token.options == TokenizerRecord::kDecodesOnly;
  return plain ? token.bytes : to_byte_alphabet(token.bytes);
}

Status add_byte_level(const TokenizerRecord& record, GgufMetadata* metadata) {
  const GgufPreTokenizer known = gguf_pre_tokenizer(record.pre_tokenizer, record.ignore_merges, record.normalizer);
  if (known.name == nullptr) {
    return unsupported("GGUF has no name for the tokenizer's pre-tokenizer, ignore_merges and normalizer together");
  }
  if (record.add_prefix_space) return unsupported("GGUF cannot ask a byte-level tokenizer for a prefix space");
  metadata->add_string(kTokenizer + "model", "gpt2");
  metadata->add_string(kTokenizer + "pre", known.name);
  return {};
}

Status add_sentencepiece(const TokenizerRecord& record, GgufMetadata* metadata) {
  const bool byte_tokens = std::any_of(record.tokens.begin(), record.tokens.end(),
                                       [](const auto& token) { return token.type == TokenType::kByte; });
  if (record.byte_fallback != byte_tokens) return unsupported("GGUF implies byte fallback by the tokens \"<0x0A>\"");
  metadata->add_string(kTokenizer + "model", "llama");
  metadata->add_string(kTokenizer + "pre", "default");
  metadata->add_bool(kTokenizer + "add_space_prefix", record.add_prefix_space);
  return {};
}

// GGUF's SentencePiece has no merges: the pair whose result scores highest is merged first. Tokens that no merge makes
// come last.
std::vector<float> scores_of(const TokenizerRecord& record) {
  std::vector<float> scores;
  const auto last = -static_cast<float>(record.merges.size()) - 1;
  for (const TokenizerRecord::Token& token : record.tokens) {
    scores.push_back(record.merges.empty() ? static_cast<float>(token.score) : last);
  }
  for (size_t rank = record.merges.size(); rank-- > 0;) {
    scores[record.merges[rank].result] = -static_cast<float>(rank);
  }
  return scores;
}

// The forms that GGUF has for more are written only as far as models need them.
Status check_simple(const TokenizerRecord& record) {
  if (record.kind != TokenizerKind::kByteLevelBpe && record.kind != TokenizerKind::kSentencePieceBpe) {
    return unsupported("a Unigram or WordPiece tokenizer is not written as GGUF");
  }
  const bool sentencepiece = record.kind == TokenizerKind::kSentencePieceBpe;
  if (sentencepiece && (!record.normalizer.empty() || record.pre_tokenizer != PreTokenizer::kNone)) {
    return unsupported("GGUF cannot hold this tokenizer's normalizer or pre-tokenizer");
  }
  if (!record.more_before.empty() || record.after.size() > 1) {
    return unsupported("GGUF cannot hold this tokenizer's special tokens around a text");
  }
  return {};
}

}  // namespace

Status add_gguf_tokenizer(const TokenizerRecord& record, uint32_t vocab_size, GgufMetadata* metadata) {
  NWC_TRY(check_simple(record));
  const bool byte_level = record.kind == TokenizerKind::kByteLevelBpe;
  NWC_TRY(byte_level ? add_byte_level(record, metadata) : add_sentencepiece(record, metadata));

  std::vector<std::string> text, merges;
  std::vector<int32_t> types;
  for (const TokenizerRecord::Token& token : record.tokens) {
    text.push_back(token_text(token, record.kind));
    types.push_back(type_number(token.type));
  }
  for (const TokenizerRecord::Merge& merge : record.merges) {
    if (!byte_level) break;
    const std::string &left = text[merge.left], &right = text[merge.right];
    if (left.find(' ') != left.npos || right.find(' ') != right.npos) {
      return unsupported("GGUF cannot hold a merge of tokens with spaces in their text (\"" + left + "\", \"" + right +
                         "\")");
    }
    merges.push_back(left + " " + right);
  }
  for (size_t id = text.size(); id < vocab_size; ++id) {
    text.push_back("[PAD" + std::to_string(id) + "]");
    types.push_back(kUnusedToken);
  }
  metadata->add_strings(kTokenizer + "tokens", text);
  metadata->add_i32s(kTokenizer + "token_type", types);
  if (byte_level) {
    metadata->add_strings(kTokenizer + "merges", merges);
  } else {
    std::vector<float> scores = scores_of(record);
    scores.resize(text.size(), 0);
    metadata->add_f32s(kTokenizer + "scores", scores);
  }
  if (record.bos_id != UINT32_MAX) metadata->add_u32(kTokenizer + "bos_token_id", record.bos_id);
  if (record.unk_id != UINT32_MAX) metadata->add_u32(kTokenizer + "unknown_token_id", record.unk_id);
  metadata->add_bool(kTokenizer + "add_bos_token", record.add_bos);
  if (!record.after.empty()) metadata->add_bool(kTokenizer + "add_eos_token", true);
  return {};
}

}  // namespace nwc
