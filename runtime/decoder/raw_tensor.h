// What both backends share: checking a request, and raw tensors converted between float types.
#pragma once

#include "runtime/decoder/decoder.h"

namespace nwc {

/// Tensor index, rows, dtype and size of the output. Errors: kInvalidArgument, kBufferTooSmall.
Status check_request(const NwcFile& file, const DecodeRequest& request);

/// Rows [row_begin, row_end) of a raw tensor in the request's dtype, rounded to nearest even where precision is lost
/// (F64 goes through f32). Errors: kUnsupported (not a float type), kTruncated, kChecksum, kCorrupt.
Status decode_raw_rows(const NwcFile& file, const DecodeRequest& request);

}  // namespace nwc
