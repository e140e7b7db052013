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

/// The first block's weight and the input's at once: weight (input_weight z + input_bias) + bias is
/// (weight input_weight) z + (weight input_bias + bias), where the product has 16 columns in place of the weight's w.
/// The scalar reference does without.
struct FoldedBlock {
  std::vector<float> weight, bias;  ///< [w][16], [w]; empty without blocks
};
FoldedBlock fold_first_block(const Network& g);

}  // namespace nwc
