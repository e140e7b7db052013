// From a weight matrix to integers: scales, chunks, analysis, rounding (doc/format.md, sections 5.1 and 5.5; paper,
// section 3).
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/encode/entropy_fit.h"
#include "trainer/encode/rans_encode.h"
#include "trainer/train/codec_model.h"

namespace nwc {

/// Scales as 8-bit logarithmic codes, 8 an octave (section 5.1).
struct ScaleCodes {
  float base = 0;  ///< 0: absent
  std::vector<uint8_t> code;
  std::vector<float> value;  ///< what a decoder makes of the codes
};
/// Nearest codes of the wanted scales; 0 stays exactly 0. `wanted`: finite, not negative. Scales more than 31 octaves
/// below the largest get the least code.
ScaleCodes encode_scales(std::span<const double> wanted);

struct TensorScales {
  ScaleCodes column;  ///< [n]
  ScaleCodes row;     ///< [m], or absent
};
/// Each column's root mean square; with row_scales, rows first share out their part (three alternations of column and
/// row root mean squares). A column's scale is at least a hundredth of its largest weight, so that latents of a nearly
/// empty column stay in the range of an i16. w: [m][n], finite.
TensorScales fit_scales(std::span<const float> w, uint64_t m, uint64_t n, bool row_scales, Runner& runner);

/// A coded tensor before entropy coding.
struct QuantizedTensor {
  uint64_t m = 0, n = 0;
  TensorScales scales;
  std::vector<uint8_t> level;      ///< [n]
  std::vector<uint8_t> row_class;  ///< [m], or empty
  uint32_t tile_rows = 0;          ///< of the tiles it was quantized for: a trellis starts anew in each; 0: any
  std::vector<int16_t> values;     ///< [(row_block * n + column) * 16 + channel]: reconstruction indices (section 5.6)
  uint64_t num_chunks() const { return ceil_div(m, kChunk) * n; }
};

/// How latents become integers.
struct Rounding {
  /// Rate-distortion optimisation: of the two neighbours and zero, the value with the least
  /// `squared error + strength * 2 ln 2 * step^2 / 12 * bits`. At 1 the exchange is at the slope of the level's own
  /// rate distortion curve, D'(R) = -2 ln 2 D. 0: to the nearest integer, as in the paper.
  double rdo_strength = 0;
};

/// k[i] for latents u (in steps). shapes: u, k [num_chunks][16]; level [num_chunks]
void round_chunks(const CodecRecord& codec, const TableCosts& costs, const Rounding& rounding, std::span<const float> u,
                  const uint8_t* level, std::span<int16_t> k);

struct QuantizeStatistics {
  double squared_error = 0;   ///< sum over all weights, of what the decoder returns in f32
  double squared_weight = 0;  ///< sum over all weights
  double ideal_bits = 0;      ///< of all values under the codec's tables
};

/// Quantizes independent columns: chunks -> analysis -> rounding. `level`: [n], each below the codec's K.
/// statistics and histograms ([K * 16], added to) may be null. Parallel; the result does not depend on the runner.
QuantizedTensor quantize_tensor(const CodecModel& codec, const TableCosts& costs, const Rounding& rounding,
                                std::span<const float> w, uint64_t m, uint64_t n, TensorScales scales,
                                std::vector<uint8_t> level, Runner& runner, QuantizeStatistics* statistics,
                                std::vector<ValueHistogram>* histograms);

}  // namespace nwc
