#include "trainer/data/gguf_tokenizer.h"

#include <algorithm>
#include <iterator>

#include "trainer/data/bpe_merges.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

const std::string kPrefix = "tokenizer.ggml.";
constexpr int32_t kNormalToken = 1, kUnusedToken = 5;

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
  // WordPiece's tokens that begin a word begin with a visible space here, too.
  if (kind != TokenizerKind::kByteLevelBpe) return undo_visible_space(text);
  if (type != TokenType::kNormal) return text;
  return undo_byte_alphabet(text).value_or(text);
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
  const bool unigram = record->kind == TokenizerKind::kUnigram;
  const bool scored = unigram || (record->kind == TokenizerKind::kSentencePieceBpe && !file.has(kPrefix + "merges"));
  if (scored && scores.size() != text.size()) {
    return corrupt("tokenizer.ggml.scores is not as long as the list of tokens");
  }
  for (size_t i = 0; i < text.size(); ++i) {
    TokenizerRecord::Token token;
    // Unused tokens of a Unigram model are parts of the text like others.
    NWC_ASSIGN_OR_RETURN(token.type, token_type(unigram && types[i] == kUnusedToken ? kNormalToken : types[i], i));
    NWC_ASSIGN_OR_RETURN(token.bytes, token_bytes(text[i], token.type, record->kind, i));
    if (scored) token.score = scores[i];
    if (record->kind == TokenizerKind::kByteLevelBpe && token.type == TokenType::kNormal &&
        !undo_byte_alphabet(text[i])) {
      token.options = TokenizerRecord::kDecodesOnly;
    }
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

// The names in tokenizer.ggml.pre whose rules are known here, and what else a name implies: the file does not say it.
// source: llama.cpp, src/llama-vocab.cpp (which names have the same regular expressions); the tokenizer.json that
// belong to these names (which compose characters first)
struct KnownPreTokenizer {
  const char* name;
  PreTokenizer rules;
  bool ignore_merges = false;
  bool add_bos = false;
  bool composes = false;  ///< a normalizer of type NFC
};
constexpr KnownPreTokenizer kPreTokenizers[] = {
    {"gpt-2", PreTokenizer::kGpt2},
    {"gpt2", PreTokenizer::kGpt2},
    {"phi-2", PreTokenizer::kGpt2},
    {"mpt", PreTokenizer::kGpt2, false, false, true},
    {"olmo", PreTokenizer::kGpt2, false, false, true},
    {"modern-bert", PreTokenizer::kGpt2, false, false, true},
    {"jina-v2-code", PreTokenizer::kGpt2},
    {"roberta-bpe", PreTokenizer::kGpt2},
    {"smollm", PreTokenizer::kSmolLm2},
    {"refact", PreTokenizer::kSmolLm2},
    {"starcoder", PreTokenizer::kSmolLm2},
    {"codeshell", PreTokenizer::kSmolLm2},
    {"command-r", PreTokenizer::kSmolLm2, false, false, true},
    {"llama-bpe", PreTokenizer::kLlama3, true, true},
    {"llama3", PreTokenizer::kLlama3, true, true},
    {"llama-v3", PreTokenizer::kLlama3, true, true},
    {"lfm2", PreTokenizer::kLlama3, true, true},
    {"falcon3", PreTokenizer::kLlama3, true, true},
    {"falcon-h1", PreTokenizer::kLlama3, true, true},
    {"dbrx", PreTokenizer::kLlama3},
    {"smaug-bpe", PreTokenizer::kLlama3},
    {"chatglm-bpe", PreTokenizer::kLlama3},
    {"glm4", PreTokenizer::kLlama3},
    {"qwen2", PreTokenizer::kQwen2, false, false, true},
    {"deepseek-r1-qwen", PreTokenizer::kQwen2, false, false, true},
    {"megrez", PreTokenizer::kQwen2, false, false, true},
    {"stablelm2", PreTokenizer::kQwen2},
    {"hunyuan", PreTokenizer::kQwen2},
    {"qwen35", PreTokenizer::kQwen35},
    {"gpt-4o", PreTokenizer::kO200k},
    {"llama4", PreTokenizer::kO200k},
    {"tekken", PreTokenizer::kTekken, true, true},
    {"deepseek-llm", PreTokenizer::kDeepSeekLlm},
    {"deepseek-coder", PreTokenizer::kDeepSeekCoder},
    {"deepseek-v3", PreTokenizer::kDeepSeekV3},
    {"hunyuan-dense", PreTokenizer::kDeepSeekV3},
    {"falcon", PreTokenizer::kFalcon},
    {"bailingmoe", PreTokenizer::kBailing},
    {"bailingmoe2", PreTokenizer::kBailing},
    {"llada-moe", PreTokenizer::kBailing},
    {"seed-coder", PreTokenizer::kSeedCoder},
    {"bloom", PreTokenizer::kBloom},
    {"gpt3-finnish", PreTokenizer::kBloom},
    {"poro-chat", PreTokenizer::kBloom},
    {"viking", PreTokenizer::kViking},
    {"minicpm5", PreTokenizer::kMiniCpm5, true},
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
  record->ignore_merges = known->ignore_merges;
  record->add_bos = known->add_bos;
  if (known->composes) record->normalizer.push_back({NormalizerOp::kNfc});
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

Status fill_byte_level(const GgufFile& file, std::string* note, TokenizerRecord* record) {
  record->kind = TokenizerKind::kByteLevelBpe;
  NWC_TRY(set_pre_tokenizer(file, record, note));
  NWC_ASSIGN_OR_RETURN(const std::vector<std::string> text, add_tokens(file, record));
  return add_merges(file, text, record);
}

Status fill_sentencepiece(const GgufFile& file, TokenizerRecord* record) {
  record->kind = TokenizerKind::kSentencePieceBpe;
  record->pre_tokenizer = PreTokenizer::kNone;
  record->add_prefix_space = true;
  record->add_bos = true;
  record->bos_id = 1;
  record->unk_id = 0;
  NWC_TRY(add_tokens(file, record));
  record->byte_fallback = has_byte_tokens(*record);
  return {};
}

// SentencePiece's vocabulary with merges, as tokenizer.json has it.
Status fill_gemma4(const GgufFile& file, TokenizerRecord* record) {
  record->kind = TokenizerKind::kSentencePieceBpe;
  record->pre_tokenizer = PreTokenizer::kNone;
  record->add_bos = true;
  NWC_ASSIGN_OR_RETURN(const std::vector<std::string> text, add_tokens(file, record));
  record->byte_fallback = has_byte_tokens(*record);
  NWC_TRY(add_merges(file, text, record));
  return record->merges.empty() ? corrupt("tokenizer.ggml.merges is missing or empty") : Status();
}

Status fill_unigram(const GgufFile& file, TokenizerRecord* record) {
  record->kind = TokenizerKind::kUnigram;
  record->pre_tokenizer = PreTokenizer::kSpaces;
  record->add_prefix_space = record->prefix_unless_space = true;
  record->unk_id = 2;
  std::vector<int32_t> charsmap;
  NWC_TRY(file.get(kPrefix + "precompiled_charsmap", &charsmap));
  for (const int32_t byte : charsmap) record->charsmap.push_back(static_cast<uint8_t>(byte));
  if (!charsmap.empty()) record->normalizer.push_back({NormalizerOp::kCharsmap});
  bool collapses = true;
  NWC_TRY(file.get(kPrefix + "remove_extra_whitespaces", &collapses));
  if (collapses) {
    record->normalizer.push_back({NormalizerOp::kStripLeft});
    record->normalizer.push_back({NormalizerOp::kStripRight});
    record->normalizer.push_back({NormalizerOp::kCollapseSpaces, "", " "});
  }
  NWC_TRY(add_tokens(file, record));
  record->byte_fallback = has_byte_tokens(*record);
  return {};
}

Status fill_wordpiece(const GgufFile& file, TokenizerRecord* record) {
  record->kind = TokenizerKind::kWordPiece;
  record->pre_tokenizer = PreTokenizer::kBert;
  record->add_bos = true;
  record->bos_id = 101;
  record->unk_id = 100;
  bool lowercase = true;
  NWC_TRY(file.get(kPrefix + "normalizer.lowercase", &lowercase));
  bool strip = lowercase;
  NWC_TRY(file.get(kPrefix + "normalizer.strip_accents", &strip));
  record->normalizer = {{NormalizerOp::kCleanText}, {NormalizerOp::kPadChinese}};
  if (strip) {
    record->normalizer.push_back({NormalizerOp::kNfd});
    record->normalizer.push_back({NormalizerOp::kDropNonSpacing});
  }
  if (lowercase) record->normalizer.push_back({NormalizerOp::kLowercase});
  NWC_TRY(add_tokens(file, record));
  return get_token_id(file, "cls_token_id", record->tokens.size(), &record->bos_id);
}

// EOS, or BERT's separator, behind the text.
Status add_end(const GgufFile& file, TokenizerRecord* record) {
  const bool word_piece = record->kind == TokenizerKind::kWordPiece, unigram = record->kind == TokenizerKind::kUnigram;
  bool add_eos = unigram, add_sep = word_piece;
  NWC_TRY(file.get(kPrefix + "add_eos_token", &add_eos));
  NWC_TRY(file.get(kPrefix + "add_sep_token", &add_sep));
  uint32_t eos = unigram ? 1 : UINT32_MAX, sep = word_piece ? 102 : UINT32_MAX;
  NWC_TRY(get_token_id(file, "eos_token_id", record->tokens.size(), &eos));
  NWC_TRY(get_token_id(file, "seperator_token_id", record->tokens.size(), &sep));  // spelt so
  if (add_sep && !add_eos && sep < record->tokens.size()) record->after.push_back(sep);
  if (add_eos && eos < record->tokens.size()) record->after.push_back(eos);
  return {};
}

}  // namespace

Result<TokenizerRecord> parse_gguf_tokenizer(const GgufFile& file, std::string* note) {
  TokenizerRecord record;
  std::string model;
  NWC_TRY(file.get(kPrefix + "model", &model));
  if (model == "gpt2") {
    NWC_TRY(fill_byte_level(file, note, &record));
  } else if (model == "llama") {
    NWC_TRY(fill_sentencepiece(file, &record));
  } else if (model == "gemma4") {
    NWC_TRY(fill_gemma4(file, &record));
  } else if (model == "t5") {
    NWC_TRY(fill_unigram(file, &record));
  } else if (model == "bert") {
    NWC_TRY(fill_wordpiece(file, &record));
  } else {
    return unsupported("tokenizer.ggml.model \"" + model + "\"");
  }
  NWC_TRY(get_token_id(file, "bos_token_id", record.tokens.size(), &record.bos_id));
  NWC_TRY(get_token_id(file, "unknown_token_id", record.tokens.size(), &record.unk_id));
  NWC_TRY(file.get(kPrefix + "add_bos_token", &record.add_bos));
  bool prefix = record.add_prefix_space;
  NWC_TRY(file.get(kPrefix + "add_space_prefix", &prefix));
  // Converters of other kinds leave the key at its SentencePiece default, where it means nothing.
  if (record.kind == TokenizerKind::kSentencePieceBpe || record.kind == TokenizerKind::kUnigram) {
    record.add_prefix_space = prefix;
    record.prefix_unless_space = record.prefix_unless_space && prefix;
  }
  record.add_bos = record.add_bos && record.bos_id != UINT32_MAX;
  NWC_TRY(add_end(file, &record));
  NWC_TRY(validate(record));
  return record;
}

GgufPreTokenizer gguf_pre_tokenizer(PreTokenizer rules, bool ignore_merges,
                                    const std::vector<NormalizerStep>& normalizer) {
  const bool composes = normalizer.size() == 1 && normalizer[0].op == NormalizerOp::kNfc;
  if (!normalizer.empty() && !composes) return {};
  for (const KnownPreTokenizer& known : kPreTokenizers) {
    if (known.rules == rules && known.ignore_merges == ignore_merges && known.composes == composes) return {known.name};
  }
  return {};
}

}  // namespace nwc
