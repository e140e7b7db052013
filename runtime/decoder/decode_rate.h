// Measures how fast a device decodes a file's weights by timing a small part of the file. Predictions of cost rest on
// this rate (doc/architecture.md, "Cost prediction").
#pragma once

#include "runtime/decoder/decoder.h"

namespace nwc {

struct DecodeRate {
  size_t tensor = 0;     ///< the tensor that was decoded
  uint64_t weights = 0;  ///< in each timed pass; 0: the file has no coded tensor
  double seconds = 0;    ///< median of the passes after a first one, or that one alone where it was long
  double weights_per_second() const { return seconds > 0 ? static_cast<double>(weights) / seconds : 0; }
};

/// Most weights that one pass of measure_decode_rate asks for, unless 16 rows of the narrowest tensor are more.
inline constexpr uint64_t kMostRateWeights = 1u << 21;
/// The same for a network with so many multiply-accumulates per weight.
uint64_t most_rate_weights(double mac_per_weight);

/// Decodes the first rows of a coded tensor of typical size (that of most coded weights, in powers of two) to f16 in
/// host memory, checksums left out: two row bands of its tiles, fewer rows where the network is expensive, more
/// where that takes less than a millisecond. About 30 ms; longer only where 16 rows take longer.
/// errors: those of Decoder::decode
Result<DecodeRate> measure_decode_rate(const NwcFile& file, Decoder& decoder);

/// The rate of FusedProduct with one vector, on the CPU, from a whole tensor of at most `most_weights`: the largest.
/// weights = 0: there is no such tensor. errors: those of FusedProduct::multiply
Result<DecodeRate> measure_fused_rate(const NwcFile& file, Runner& runner, CpuLevel cpu, uint64_t most_weights);

}  // namespace nwc
