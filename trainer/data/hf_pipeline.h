// What a tokenizer.json does to the text around its BPE model: normalizers, pre-tokenizers, post-processors.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

#include "runtime/format/model_record.h"

namespace nwc {

/// The regular expression of Llama 3's Split pre-tokenizer.
extern const std::string_view kLlama3Pattern;

struct HfPipeline {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  PreTokenizer pre_tokenizer = PreTokenizer::kNone;
  bool add_prefix_space = false;
  std::optional<uint32_t> bos_id;  ///< the token that the post-processor puts in front
};

/// Recognises the combinations that the engine has a twin for. errors: kUnsupported, naming the part; kCorrupt
Result<HfPipeline> parse_hf_pipeline(const nlohmann::json& tokenizer);

}  // namespace nwc
