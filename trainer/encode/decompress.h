// From a .nwc file back to safetensors.
#pragma once

#include <optional>
#include <string>

#include "runtime/decoder/decoder.h"

namespace nwc {

/// Writes every tensor of the file under its name and shape. dtype: kF32, kF16 or kBf16 for all float tensors, or none
/// for each tensor's own; tensors of other types are copied. One tensor is in memory at a time. Atomic. progress: in
/// weights. errors: kInvalidArgument (dtype), those of the decoder, kIo, kCancelled
Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress);

}  // namespace nwc
