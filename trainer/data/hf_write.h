// Makes the files that transformers needs beside weights and config.json (hf_made.h) from a tokenizer record: the
// inverse of hf_tokenizer.h, for models whose own files were not kept.
#pragma once

#include <string>

#include "runtime/format/dtype.h"
#include "runtime/format/model_record.h"

namespace nwc {

/// Returns the name that transformers has for a type: "float32", "float16" or "bfloat16"; empty for other types.
std::string torch_dtype_name(Dtype dtype);

/// config.json with another type of weights (torch_dtype, or dtype where it has that), and without the
/// quantization_config of weights that are not quantized any more. Returns the same text where nothing changes.
/// errors: kCorrupt (not JSON, not an object)
Result<std::string> adapt_hf_config(const std::string& config, Dtype dtype, bool drop_quantization);

/// The value of quantization_config.quant_method; empty where there is none.
std::string hf_quant_method(const std::string& config);

/// The settings of a tokenizer beside its vocabulary. An empty string and UINT32_MAX mean "not known".
struct TokenizerConfig {
  uint32_t bos_id = UINT32_MAX, eos_id = UINT32_MAX, unk_id = UINT32_MAX, pad_id = UINT32_MAX;
  /// Names and texts. A chat takes the one that is named "default".
  std::vector<std::pair<std::string, std::string>> chat_templates;
};

/// tokenizer.json that encodes as the record does.
/// errors: kUnsupported, naming what tokenizer.json has no way to say
Result<std::string> make_hf_tokenizer(const TokenizerRecord& record);

/// tokenizer_config.json. max_positions: of the model, 0 for not known.
std::string make_hf_tokenizer_config(const TokenizerRecord& record, const TokenizerConfig& config,
                                     uint32_t max_positions);

/// generation_config.json.
std::string make_hf_generation_config(const ModelRecord& model, const TokenizerConfig& config);

}  // namespace nwc
