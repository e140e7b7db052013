// Both backends check requests with these functions and convert raw tensors between float types.
#pragma once

#include "runtime/decoder/decoder.h"

namespace nwc {

/// Checks tensor index, rows and dtype. Errors: kInvalidArgument.
Status check_rows(const NwcFile& file, size_t tensor, uint64_t row_begin, uint64_t row_end, Dtype dtype);
/// Checks the same and the size of the output. Errors: kInvalidArgument, kBufferTooSmall.
Status check_request(const NwcFile& file, const DecodeRequest& request);

/// Rows [row_begin, row_end) of a raw tensor in the request's dtype, rounded to nearest even where precision is lost
/// (F64 goes through f32). Errors: kUnsupported (not a type that dtype_is_float names), kTruncated, kChecksum,
/// kCorrupt.
Status decode_raw_rows(const NwcFile& file, const DecodeRequest& request);

/// `count` numbers from one float type to another, as decode_raw_rows rounds them.
void convert_floats(Dtype from_dtype, const uint8_t* from, size_t count, Dtype to_dtype, uint8_t* to);

}  // namespace nwc
