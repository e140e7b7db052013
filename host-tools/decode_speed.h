// Measures the speed of a decoder, as a ratio to copying the decoded bytes in the same run.
#pragma once

#include "runtime/decoder/decoder.h"

namespace nwc::cli {

struct DecodeSpeed {
  uint64_t weights = 0;       ///< decoded in each pass
  uint64_t passes = 0;        ///< after one that is not counted
  double seconds = 0;         ///< median of a pass
  double memcpy_seconds = 0;  ///< median of copying the same bytes once, on one thread
  double bytes_per_second() const { return seconds > 0 ? 2.0 * static_cast<double>(weights) / seconds : 0; }
  double memcpy_ratio() const { return seconds > 0 ? memcpy_seconds / seconds : 0; }
};

/// Decodes coded tensors (the largest first, up to 2^24 weights) to f16 in host memory, checksums left out. At least 5
/// passes unless one takes more than 2 seconds, then 2. Nothing to decode: weights = 0.
Result<DecodeSpeed> measure_decode_speed(const NwcFile& file, Decoder& decoder);

}  // namespace nwc::cli
