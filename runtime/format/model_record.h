// The MODEL and TOKENIZER sections: config.json and tokenizer.json as binary records (doc/format.md, sections 7 and 8).
// The encoder fills these structs from Hugging Face or GGUF files; the runtime parses them back and never sees JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"

namespace nwc {

enum class RopeScaling : uint8_t { kNone = 0, kLinear = 1, kLlama3 = 2 };

/// Hyperparameters of the Llama family: RMSNorm, RoPE (rotate-half), GQA, SwiGLU, no biases.
/// Tensors carry Hugging Face names ("model.layers.0.self_attn.q_proj.weight"), shapes [out][in].
struct ModelRecord {
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t max_positions = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1;             ///< kLinear, kLlama3
  float rope_low_freq_factor = 1;    ///< kLlama3
  float rope_high_freq_factor = 4;   ///< kLlama3
  uint32_t rope_original_max_positions = 0;  ///< kLlama3
  bool tied_embeddings = false;              ///< lm_head.weight is model.embed_tokens.weight
  std::vector<uint32_t> eos_ids;             ///< generation stops at any of these; at most 16
};

/// Checks ranges and relations (heads divide, limits of doc/format.md section 7). Message names the field.
Status validate(const ModelRecord& record);
Result<ModelRecord> parse_model_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const ModelRecord& record);

enum class TokenizerKind : uint8_t { kByteLevelBpe = 1, kSentencePieceBpe = 2 };
enum class PreTokenizer : uint8_t {
  kNone = 0,     ///< SentencePiece: the whole text is one piece
  kGpt2 = 1,     ///< GPT-2's pattern
  kSmolLm2 = 2,  ///< every digit alone (tokenizers' Digits), then GPT-2's pattern
  kLlama3 = 3,   ///< Llama 3's pattern
};
enum class TokenType : uint8_t { kNormal = 0, kControl = 1, kByte = 2, kUnknown = 3, kUserDefined = 4 };

struct TokenizerRecord {
  struct Token {
    std::string bytes;  ///< the raw bytes that the token stands for (byte-level alphabet already undone)
    TokenType type = TokenType::kNormal;
    float score = 0;  ///< SentencePiece only
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
  bool ignore_merges = false;     ///< a whole piece that is a token is taken as it is (Llama 3)
  bool byte_fallback = false;     ///< SentencePiece: unknown characters become <0xNN> tokens
  bool add_bos = false;           ///< encode() puts bos_id in front when asked for special tokens
  uint32_t bos_id = UINT32_MAX;   ///< UINT32_MAX: none
  uint32_t unk_id = UINT32_MAX;   ///< UINT32_MAX: none
  std::vector<Token> tokens;      ///< id = index
  std::vector<Merge> merges;      ///< SentencePiece: empty where scores decide
};

Status validate(const TokenizerRecord& record);
Result<TokenizerRecord> parse_tokenizer_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const TokenizerRecord& record);

}  // namespace nwc
