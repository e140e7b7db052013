// The rotary positions of a config.json.
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/config_reader.h"

namespace nwc {

/// Reads rope_theta, rope_scaling (older files) or rope_parameters (newer ones, which may have an object for each type
/// of layer) and partial_rotary_factor into *block. layer_type: "full_attention" or "sliding_attention". model:
/// max_positions is read, and raised where a scaling reaches beyond it. errors: kCorrupt (impossible numbers),
/// kUnsupported (a type or a key that is unknown): they name key and value
Status read_rope(ConfigReader& config, const char* layer_type, ModelRecord* model, BlockSpec* block);

}  // namespace nwc
