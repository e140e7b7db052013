// Version 2 of the MODEL section (doc/format_model.md).
#pragma once

#include "runtime/format/model_record.h"

namespace nwc {

/// What follows the record version. errors: kUnsupported (unknown values and parts), kCorrupt, kTruncated, kLimit
Result<ModelRecord> parse_model_record_2(ByteReader* reader);
/// The same, written.
void write_model_record_2(const ModelRecord& record, ByteWriter* out);
/// Patterns: not empty, one "{}" in those of layers, none in others, no role twice. errors: kCorrupt
Status validate_names(const std::vector<TensorName>& names);

}  // namespace nwc
