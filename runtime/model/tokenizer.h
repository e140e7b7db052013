// Text to tokens and back. Byte-level BPE (GPT-2, SmolLM2 and Llama 3 pre-tokenizers) and SentencePiece BPE with byte
// fallback. Matches Hugging Face tokenizers on valid UTF-8; invalid bytes are taken as they are and never lost.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/model_record.h"

namespace nwc {

/// Immutable, thread-safe.
class Tokenizer {
 public:
  /// The record has been validated by its parser. Errors: kLimit (more special tokens than TokenMatcher takes).
  static Result<std::unique_ptr<Tokenizer>> create(TokenizerRecord record);
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special = true;     ///< put BOS in front where the tokenizer says so
    bool parse_special = false;  ///< control tokens written out in the text become their ids
  };
  /// O(n log n) in the length of a piece, so that hostile text cannot stall it. Errors: kLimit (text over 1 GiB),
  /// kCorrupt (a byte that no token stands for).
  Result<std::vector<uint32_t>> encode(std::string_view text, const EncodeOptions& options) const;
  /// Bytes of one token; control tokens give "". Out-of-range ids give "".
  std::string_view token_bytes(uint32_t id) const;
  std::string decode(const std::vector<uint32_t>& ids) const;
  uint32_t vocab_size() const;
  const TokenizerRecord& record() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc
