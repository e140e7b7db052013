// Interleaved rANS decoding of one tile into integer values (doc/format.md, sections 5.2 and 5.3).
#pragma once

#include <span>

#include "runtime/base/bytes.h"
#include "runtime/base/cpu_features.h"
#include "runtime/base/status.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

/// Values of one tile, chunk by chunk: out[((row_block * width) + column) * 16 + channel], i16.
/// level: [width] of the tile's columns, each below K. out: row_blocks * width * 16 values.
/// errors: kTruncated (words run out), kChecksum (words left over, a state not 2^16), kCorrupt (a state below 2^16)
/// safety: untrusted payload; writes only out. Every CpuLevel gives the same values and the same kind of status.
Status decode_tile(CpuLevel cpu, const DecodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                   Bytes payload, std::span<int16_t> out);

}  // namespace nwc
