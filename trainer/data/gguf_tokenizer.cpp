#include "trainer/data/gguf_tokenizer.h"

#include <algorithm>
#include <iterator>

#include "trainer/data/bpe_merges.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

const std::string kPrefix = "tokenizer.ggml.";

// ggml's numbering, 1 to 6; 5 means unused, a placeholder that never occurs in text.
Result<TokenType> token_type(int32_t number, size_t id) {
  switch (number) {
    case 1: return TokenType::kNormal;
    case 2: return TokenType::kUnknown;
    case 3:
    case 5: return TokenType::kControl;
    case 4: return TokenType::kUserDefined;
    case 6: return TokenType::kByte;
    default:
      return corrupt("tokenizer.ggml.token_type: token " + std::to_string(id) + " has type " + std::to_string(number));
  }
}

Result<std::string> token_bytes(const std::string& text, TokenType type, TokenizerKind kind, size_t id) {
  if (type == TokenType::kByte) {
    const std::optional<uint8_t> byte = parse_byte_token(text);
    if (!byte) return corrupt("byte token " + std::to_string(id) + " is not of the form <0x0A>");
    return std::string(1, static_cast<char>(*byte));
  }
  if (kind == TokenizerKind::kSentencePieceBpe) return undo_visible_space(text);
  if (type != TokenType::kNormal) return text;
  std::optional<std::string> bytes = undo_byte_alphabet(text);
  if (!bytes) return corrupt("token " + std::to_string(id) + " has a character outside the byte-level alphabet");
  return std::move(*bytes);
}

Result<std::vector<std::string>> add_tokens(const GgufFile& file, TokenizerRecord* record) {
  std::vector<std::string> text;
  std::vector<int32_t> types;
  std::vector<float> scores;
  NWC_TRY(file.get(kPrefix + "tokens", &text));
  NWC_TRY(file.get(kPrefix + "token_type", &types));
  NWC_TRY(file.get(kPrefix + "scores", &scores));
  if (text.empty()) return corrupt("tokenizer.ggml.tokens is missing or empty");
  if (types.empty()) types.assign(text.size(), 1);
  if (types.size() != text.size()) return corrupt("tokenizer.ggml.token_type is not as long as the list of tokens");
  const bool scored = record->kind == TokenizerKind::kSentencePieceBpe;
  if (scored && scores.size() != text.size()) {
    return corrupt("tokenizer.ggml.scores is not as long as the list of tokens");
  }
  for (size_t i = 0; i < text.size(); ++i) {
    TokenizerRecord::Token token;
    NWC_ASSIGN_OR_RETURN(token.type, token_type(types[i], i));
    NWC_ASSIGN_OR_RETURN(token.bytes, token_bytes(text[i], token.type, record->kind, i));
    if (scored) token.score = scores[i];
    record->tokens.push_back(std::move(token));
  }
  return text;
}

Status add_merges(const GgufFile& file, const std::vector<std::string>& text, TokenizerRecord* record) {
  TokenIds ids;
  for (size_t i = 0; i < text.size(); ++i) ids.emplace(text[i], static_cast<uint32_t>(i));
  std::vector<std::string> merges;
  NWC_TRY(file.get(kPrefix + "merges", &merges));
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    NWC_ASSIGN_OR_RETURN(const TokenizerRecord::Merge merge, parse_merge(ids, merges[rank], rank));
    record->merges.push_back(merge);
  }
  return {};
}

// The names in tokenizer.ggml.pre whose rules are known here.
// source: llama.cpp, src/llama-vocab.cpp (which names have the same regular expressions)
struct KnownPreTokenizer {
  const char* name;
  PreTokenizer rules;
};
constexpr KnownPreTokenizer kPreTokenizers[] = {
    {"gpt-2", PreTokenizer::kGpt2},        {"gpt2", PreTokenizer::kGpt2},        {"phi-2", PreTokenizer::kGpt2},
    {"mpt", PreTokenizer::kGpt2},          {"smollm", PreTokenizer::kSmolLm2},   {"refact", PreTokenizer::kSmolLm2},
    {"starcoder", PreTokenizer::kSmolLm2}, {"llama-bpe", PreTokenizer::kLlama3}, {"llama3", PreTokenizer::kLlama3},
    {"llama-v3", PreTokenizer::kLlama3},
};

// What the name of the pre-tokenizer implies. Early files have none, or "default".
Status set_pre_tokenizer(const GgufFile& file, TokenizerRecord* record, std::string* note) {
  std::string name;
  NWC_TRY(file.get(kPrefix + "pre", &name));
  if (name.empty() || name == "default") {
    record->pre_tokenizer = PreTokenizer::kGpt2;
    *note = name.empty() ? "metadata key \"tokenizer.ggml.pre\" is missing" : "tokenizer.ggml.pre is \"default\"";
    *note += ", so the pre-tokenizer is not known; GPT-2's rules are assumed";
    return {};
  }
  const auto* known = std::find_if(std::begin(kPreTokenizers), std::end(kPreTokenizers),
                                   [&](const KnownPreTokenizer& candidate) { return name == candidate.name; });
  if (known == std::end(kPreTokenizers)) {
    return unsupported("tokenizer.ggml.pre names the pre-tokenizer \"" + name.substr(0, 100) +
                       "\", which is not supported");
  }
  record->pre_tokenizer = known->rules;
  record->ignore_merges = record->add_bos = known->rules == PreTokenizer::kLlama3;
  return {};
}

// An id that is in the vocabulary replaces the default in *out.
Status get_token_id(const GgufFile& file, const char* key, size_t num_tokens, uint32_t* out) {
  NWC_TRY(file.get(kPrefix + key, out));
  if (*out != UINT32_MAX && *out >= num_tokens) {
    return corrupt("metadata key \"" + kPrefix + key + "\" is " + std::to_string(*out) + ", beyond the vocabulary");
  }
  return {};
}

bool has_byte_tokens(const TokenizerRecord& record) {
  for (const TokenizerRecord::Token& token : record.tokens) {
    if (token.type == TokenType::kByte) return true;
  }
  return false;
}

}  // namespace

Result<TokenizerRecord> parse_gguf_tokenizer(const GgufFile& file, std::string* note) {
  TokenizerRecord record;
  std::string model;
  NWC_TRY(file.get(kPrefix + "model", &model));
  if (model == "gpt2") {
    record.kind = TokenizerKind::kByteLevelBpe;
    NWC_TRY(set_pre_tokenizer(file, &record, note));
    NWC_ASSIGN_OR_RETURN(const std::vector<std::string> text, add_tokens(file, &record));
    NWC_TRY(add_merges(file, text, &record));
  } else if (model == "llama") {
    record.kind = TokenizerKind::kSentencePieceBpe;
    record.pre_tokenizer = PreTokenizer::kNone;
    record.add_prefix_space = true;
    record.add_bos = true;
    record.bos_id = 1;
    record.unk_id = 0;
    NWC_TRY(add_tokens(file, &record));
    record.byte_fallback = has_byte_tokens(record);
  } else {
    return unsupported("tokenizer.ggml.model \"" + model + "\"");
  }
  NWC_TRY(get_token_id(file, "bos_token_id", record.tokens.size(), &record.bos_id));
  NWC_TRY(get_token_id(file, "unknown_token_id", record.tokens.size(), &record.unk_id));
  NWC_TRY(file.get(kPrefix + "add_bos_token", &record.add_bos));
  bool prefix = record.add_prefix_space;
  NWC_TRY(file.get(kPrefix + "add_space_prefix", &prefix));
  // Byte-level converters leave the key at its SentencePiece default, where it means nothing.
  if (record.kind == TokenizerKind::kSentencePieceBpe) record.add_prefix_space = prefix;
  record.add_bos = record.add_bos && record.bos_id != UINT32_MAX;
  NWC_TRY(validate(record));
  return record;
}

}  // namespace nwc
