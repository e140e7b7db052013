// Text to tokens and back: byte-level BPE, SentencePiece BPE and Unigram, WordPiece, with the normalizers and
// pre-tokenizers of doc/format_model.md. Matches Hugging Face tokenizers on valid UTF-8; byte-level BPE and byte
// fallback take invalid bytes as they are and never lose them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

/// Immutable, thread-safe.
class Tokenizer {
 public:
  /// The record has been validated by its parser. Errors: kLimit (more tokens than TokenMatcher or TokenTrie take),
  /// kCorrupt (the charsmap).
  static Result<std::unique_ptr<Tokenizer>> create(TokenizerRecord record);
  /// The same without a copy of a record that outlives it: those of large vocabularies take tens of MB.
  static Result<std::unique_ptr<Tokenizer>> create_from(const TokenizerRecord& record);
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special = true;     ///< put BOS in front where the tokenizer says so
    bool add_end = false;        ///< and EOS behind, which a text that goes on must not have
    bool parse_special = false;  ///< control tokens written out in the text become their ids
  };
  /// O(n log n) in the length of a piece, so that hostile text cannot stall it. Errors: kLimit (text over 1 GiB, or a
  /// normalizer that makes much more of it), kCorrupt (a byte that no token stands for).
  Result<std::vector<uint32_t>> encode(std::string_view text, const EncodeOptions& options) const;
  /// A text that is cut into windows of `window` tokens (2 or more), each of which begins as a text does: with BOS
  /// where the tokenizer says so. Evaluation and calibration read a text like this. Errors: as encode()
  Result<std::vector<uint32_t>> encode_windows(std::string_view text, uint32_t window) const;
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
