// The pre-tokenizers of a tokenizer.json and the rows of the runtime's table that do the same.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

struct HfByteLevelSplit {
  PreTokenizer row = PreTokenizer::kNone;
  bool add_prefix_space = false;
};

/// The parts of a byte-level tokenizer's pre-tokenizer, of which one is ByteLevel. errors: kUnsupported, naming the
/// part, or the regular expression that is unknown; kCorrupt
Result<HfByteLevelSplit> parse_hf_splits(std::span<const nlohmann::json* const> parts);

/// The same the other way round. errors: kUnsupported
Result<nlohmann::json> make_hf_splits(PreTokenizer row, bool add_prefix_space);

}  // namespace nwc
