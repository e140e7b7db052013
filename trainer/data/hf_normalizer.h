// The normalizers of a tokenizer.json as steps of a tokenizer record.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

struct HfNormalizer {
  std::vector<NormalizerStep> steps;  ///< in the record's terms: a space for U+2581 where spaces are made visible
  std::vector<uint8_t> charsmap;
  bool shows_spaces = false;    ///< spaces become U+2581
  bool prepends_space = false;  ///< and one is put in front; there is no step for it
};

/// errors: kUnsupported, naming the part, option and value; kCorrupt
Result<HfNormalizer> parse_hf_normalizer(std::span<const nlohmann::json* const> parts);

/// One part of a pipeline for a message: what it is, its type and its text.
Status unsupported_hf_part(const char* where, const nlohmann::json& part);
std::string hf_type_of(const nlohmann::json& part);

}  // namespace nwc
