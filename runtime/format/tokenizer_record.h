// The TOKENIZER section: tokenizer.json, or a GGUF file's metadata, as a binary record (doc/format_model.md). The
// encoder fills it; the runtime parses it back and never sees JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"

namespace nwc {

enum class TokenizerKind : uint8_t {
  kByteLevelBpe = 1,
  kSentencePieceBpe = 2,
  // Record version 2 from here on.
  kUnigram = 3,
  kWordPiece = 4,
};

/// Rows of the table in runtime/model/pre_tokenizer_rows.cpp; doc/format_model.md has their regular expressions.
enum class PreTokenizer : uint8_t {
  kNone = 0,     ///< the whole text is one piece
  kGpt2 = 1,     ///< GPT-2's pattern
  kSmolLm2 = 2,  ///< every digit alone (tokenizers' Digits), then GPT-2's pattern
  kLlama3 = 3,   ///< Llama 3's pattern
  // Record version 2 from here on.
  kQwen2 = 4,
  kQwen35 = 5,
  kO200k = 6,
  kTekken = 7,
  kDeepSeekLlm = 8,
  kDeepSeekCoder = 9,
  kDeepSeekV3 = 10,
  kFalcon = 11,
  kCl100k = 12,
  kBailing = 13,
  kSeedCoder = 14,
  kBloom = 15,
  kViking = 16,
  kMiniCpm5 = 17,
  kSpaces = 18,  ///< a piece begins at every space (a Metaspace pre-tokenizer that splits)
  kWords = 19,   ///< what stands between white space
  kBert = 20,    ///< the same, and every punctuation mark is a piece
};
constexpr PreTokenizer kLastPreTokenizer = PreTokenizer::kBert;

enum class TokenType : uint8_t { kNormal = 0, kControl = 1, kByte = 2, kUnknown = 3, kUserDefined = 4 };

/// What is done to the text before it is split; doc/format_model.md, part 1.
enum class NormalizerOp : uint8_t {
  kNfc = 1,
  kNfd = 2,
  kNfkc = 3,
  kNfkd = 4,
  kLowercase = 5,
  kDropMarks = 6,       ///< all combining marks (tokenizers' StripAccents)
  kDropNonSpacing = 7,  ///< marks of category Mn (BERT's strip_accents)
  kCleanText = 8,       ///< BERT's clean_text
  kPadChinese = 9,      ///< BERT's handle_chinese_chars
  kReplace = 10,        ///< every `from` becomes `to`
  kPrepend = 11,        ///< `to` in front, unless there is no text
  kStripLeft = 12,      ///< white space at the front
  kStripRight = 13,
  kCollapseSpaces = 14,  ///< two or more spaces become `to`
  kCharsmap = 15,        ///< SentencePiece's compiled map of characters
};
constexpr NormalizerOp kLastNormalizerOp = NormalizerOp::kCharsmap;

struct NormalizerStep {
  NormalizerOp op = NormalizerOp::kNfc;
  std::string from = {}, to = {};  ///< kReplace, kPrepend, kCollapseSpaces
};

struct TokenizerRecord {
  // Options of control and user-defined tokens, as an added token of tokenizers has them.
  static constexpr uint8_t kStripsLeft = 1;   ///< takes the white space in front of it along
  static constexpr uint8_t kStripsRight = 2;  ///< takes the white space behind it along
  static constexpr uint8_t kSingleWord = 4;   ///< only where it is not part of a longer word
  static constexpr uint8_t kNormalized = 8;   ///< is looked for in the normalised text
  /// Of a normal token: no text becomes it, because its own text cannot be written in the byte-level alphabet.
  static constexpr uint8_t kDecodesOnly = 16;

  struct Token {
    std::string bytes;  ///< the raw bytes that the token stands for (byte-level alphabet already undone)
    TokenType type = TokenType::kNormal;
    double score = 0;  ///< kSentencePieceBpe (a float) and kUnigram
    uint8_t options = 0;
  };
  struct Merge {
    uint32_t left = 0, right = 0, result = 0;  ///< token ids; index in the list = rank
  };
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  PreTokenizer pre_tokenizer = PreTokenizer::kGpt2;
  bool add_prefix_space = false;  ///< SentencePiece's dummy prefix, ByteLevel's add_prefix_space
  /// Both narrow SentencePiece's add_prefix_space, as a Metaspace pre-tokenizer does: only in front of a stretch that
  /// begins the text; not in front of a stretch that begins with a space.
  bool prefix_first_only = false;
  bool prefix_unless_space = false;
  bool ignore_merges = false;         ///< a whole piece that is a token is taken as it is (Llama 3)
  bool byte_fallback = false;         ///< SentencePiece: unknown characters become <0xNN> tokens
  bool unfused_unknown = false;       ///< each unknown character is a token of its own, not one for all in a row
  bool keep_leading_space = false;    ///< decoding does not drop the space that add_prefix_space put in front
  bool drop_leading_space = false;    ///< decoding drops a space in front that add_prefix_space did not put there
  bool add_bos = false;               ///< encode() puts bos_id in front when asked for special tokens
  uint32_t bos_id = UINT32_MAX;       ///< UINT32_MAX: none
  uint32_t unk_id = UINT32_MAX;       ///< UINT32_MAX: none
  std::vector<uint32_t> more_before;  ///< special tokens between BOS and text
  std::vector<uint32_t> after;        ///< special tokens behind the text: EOS, or BERT's [SEP]
  uint32_t max_word_chars = 100;      ///< kWordPiece: a longer word is the unknown token
  std::vector<NormalizerStep> normalizer;
  std::vector<uint8_t> charsmap;  ///< of kCharsmap
  std::vector<Token> tokens;      ///< id = index
  std::vector<Merge> merges;      ///< SentencePiece: empty where scores decide

  bool drops_leading_space() const {
    if (kind == TokenizerKind::kByteLevelBpe) return drop_leading_space;
    return drop_leading_space || ((add_prefix_space || kind == TokenizerKind::kWordPiece) && !keep_leading_space);
  }
};

Status validate(const TokenizerRecord& record);
Result<TokenizerRecord> parse_tokenizer_record(Bytes section, uint64_t file_offset);
/// Version 1 where it can say everything, so that older programs can use it, else version 2.
std::vector<uint8_t> serialize(const TokenizerRecord& record);

}  // namespace nwc
