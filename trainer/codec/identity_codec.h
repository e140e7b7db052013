// The codec without a learned transform: g_a and g_s are the identity.
#pragma once

#include "trainer/codec/codec_model.h"

namespace nwc {

/// Entropy-coded (scalar or dependent) quantization of the weights themselves, at any rate. One level of step 1 over a
/// unit deviation; the encoder makes its own ladder of levels of it. Always the same codec with the same id.
CodecModel identity_codec();

}  // namespace nwc
