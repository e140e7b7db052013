// All session modes on one small model, compared: resident, cached and streamed bit for bit; fused and resident against
// exact logits of what each computes with.
#pragma once

#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"

namespace nwc::fuzz {

/// `choice` decides on level, types, tokens and how they are split into calls. Files without a model description, or of
/// one that does not fit, only have to be refused alike.
void check_sessions(const NwcFile& file, const DecodeTables& tables, uint64_t choice);

}  // namespace nwc::fuzz
