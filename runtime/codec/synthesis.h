// Dequantization and synthesis network g_s on the CPU (doc/format.md, section 5.5; paper, section 3.2).
#pragma once

#include <span>
#include <vector>

#include "runtime/base/cpu_features.h"
#include "runtime/format/codec_record.h"

namespace nwc {

/// y[num_chunks][16] = g_s(dequantize(q[num_chunks][16], level[num_chunks])), before any scale.
/// Scalar is the reference; the twins agree within the tolerance of section 5.5.
void synthesize_chunks(CpuLevel cpu, const CodecRecord& codec, std::span<const int16_t> q, const uint8_t* level,
                       std::span<float> y);

/// The first block's V and the layer before it at once: u = V h + v = V (A z + a) + v = (V A) z + (V a + v). V A has 16
/// columns in place of V's w. The scalar reference does without.
struct FoldedBlock {
  std::vector<float> A, a;  ///< [w][16], [w]; empty without blocks
};
FoldedBlock fold_first_block(const Network& g);

}  // namespace nwc
