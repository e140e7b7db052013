// Turns config.json and generation_config.json into a model record.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "runtime/format/model_record.h"
#include "trainer/data/source_notes.h"

namespace nwc {

struct Family;

struct HfConfig {
  ModelRecord model;
  const Family* family = nullptr;
  std::optional<uint32_t> bos_id;
  SourceNotes notes;  ///< what was ignored: impossible end tokens, unknown keys, a damaged generation_config.json
};

/// Rows and columns of the blocks of FP8 weights that have one scale each ("quantization_config" with "quant_method"
/// "fp8" and "weight_block_size"), or nullopt. Whatever else the text holds is no matter.
std::optional<std::array<uint32_t, 2>> find_fp8_blocks(Bytes config);

/// Are experts stored as MXFP4 ("quantization_config" with "quant_method" "mxfp4")? Whatever else the text holds is no
/// matter.
bool has_mxfp4_weights(Bytes config);

/// Reads the configuration of any family of hf_family.h, or the "text_config" of a multimodal model. Absent fields have
/// the defaults of the family's class in transformers, except that the sizes have to be there, and that there is no end
/// token.
/// generation_config: the text of generation_config.json, whose end tokens are added, or nullptr.
/// errors: kCorrupt (JSON, a field of the wrong type, an impossible value), kUnsupported (another architecture, or an
///         option that the engine lacks; the message names key and value)
Result<HfConfig> parse_hf_config(Bytes config, const Bytes* generation_config);

}  // namespace nwc
