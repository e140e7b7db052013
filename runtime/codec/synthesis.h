// Dequantization and synthesis network g_s on the CPU (doc/format.md, section 5.5; paper, section 3.2).
#pragma once

#include <span>

#include "runtime/base/cpu_features.h"
#include "runtime/format/codec_record.h"

namespace nwc {

/// y[num_chunks][16] = g_s(dequantize(q[num_chunks][16], level[num_chunks])), before any scale.
/// Scalar is the reference; the twins agree within the tolerance of section 5.5.
void synthesize_chunks(CpuLevel cpu, const CodecRecord& codec, std::span<const int16_t> q, const uint8_t* level,
                       std::span<float> y);

}  // namespace nwc
