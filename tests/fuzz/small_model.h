// Model files of a few KiB for fuzzing, made by the reference encoder of the tests: a Llama of two layers that runs in
// every session mode, with any codec.
#pragma once

#include <vector>

#include "tests/codec/reference_encoder.h"

namespace nwc::fuzz {

struct SmallModelOptions {
  reference::CodecOptions codec;
  uint32_t seed = 1;
  bool tied = true;
  bool row_scales = false;
  bool tokenizer = false;
  bool described = false;                  ///< MODEL record 2: two kinds of blocks, one with a window, and caps
  std::vector<uint8_t> tokenizer_section;  ///< in place of the small tokenizer's, if not empty
  std::vector<uint8_t> source;             ///< section SOURCE, if not empty
  Dtype norms = Dtype::kF32;
  float scale_base = 0.02f;
};

/// Vocabulary 32, width 16, two heads that share one of keys and values, two layers.
std::vector<uint8_t> make_small_model(const SmallModelOptions& options);

/// Bytes as tokens, some merges, two control tokens.
TokenizerRecord small_tokenizer(TokenizerKind kind);

}  // namespace nwc::fuzz
