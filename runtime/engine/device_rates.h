// How fast a device multiplies, for the prediction of what a session takes in time.
#pragma once

#include "runtime/decoder/decoder.h"

namespace nwc {

/// Bytes of f16 weights per second that the device of a Vulkan decoder gets through in a product with one token.
/// errors: kNoDevice, kOutOfMemory, kDevice, kDeviceLost
Result<double> device_memory_rate(Decoder& decoder);
/// Weights per second in a product with one token from the payload, of the largest coded tensor with at most
/// most_weights; 0: there is none, or the codec's synthesis is a network. errors: as above, and those of the data
Result<double> device_fused_rate(const NwcFile& file, Decoder& decoder, uint64_t most_weights);

}  // namespace nwc
