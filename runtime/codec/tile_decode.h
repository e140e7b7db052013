// Interleaved rANS decoding of one tile into integers (doc/format.md, sections 5.2, 5.3 and 5.6).
#pragma once

#include <span>

#include "runtime/base/bytes.h"
#include "runtime/base/cpu_features.h"
#include "runtime/base/status.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

/// Reconstruction indices of one tile, chunk by chunk: out[((row_block * width) + column) * 16 + channel], i16.
/// level: [width] of the tile's columns, each below K. row_class: [height] of the tile's rows, each below 16; rows
/// beyond its end are of class 0; unused where the codec's context is the channel. out: row_blocks * width * 16 values.
/// errors: kTruncated (words run out), kChecksum (words left over, a state not 2^16), kCorrupt (a state below 2^16)
/// safety: untrusted payload; writes only out. Every CpuLevel gives the same values and the same kind of status.
Status decode_tile(CpuLevel cpu, const DecodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                   std::span<const uint8_t> row_class, Bytes payload, std::span<int16_t> out);

}  // namespace nwc
