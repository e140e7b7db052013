// Turns a weight matrix into integers: scales, chunks, analysis, rounding (doc/format.md, sections 5.1 and 5.5; paper,
// section 3).
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/codec/codec_model.h"
#include "trainer/codec/entropy_fit.h"
#include "trainer/search/error_feedback.h"
#include "trainer/search/rans_encode.h"

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
/// How finely each weight is quantized and by which tables: step of weight (r, c) = codec's step of level[c] *
/// column scale * row scale.
struct TensorSteps {
  TensorScales scales;
  std::vector<uint8_t> level;      ///< [n]
  std::vector<uint8_t> row_class;  ///< [m], or empty: all 0
};

/// A coded tensor before entropy coding.
struct QuantizedTensor {
  uint64_t m = 0, n = 0;
  TensorScales scales;
  std::vector<uint8_t> level;      ///< [n]
  std::vector<uint8_t> row_class;  ///< [m], or empty
  uint32_t tile_rows = 0;          ///< of the tiles it was quantized for: a trellis starts anew in each
  std::vector<int16_t> values;     ///< [(row_block * n + column) * 16 + channel]: reconstruction indices (section 5.6)
};

struct QuantizeJob {
  const CodecModel& codec;  ///< the levels in use only
  const TableCosts& costs;  ///< of its tables
  /// Rate-distortion optimisation, of rounding and of the trellis: a bit is worth as much squared error as the slope of
  /// the level's own rate-distortion curve, D'(R) = -2 ln 2 D, times this. 0: nearest points, as in the paper.
  double rdo_strength = 0;
  std::span<const float> w;  ///< [m][n]
  uint64_t m = 0, n = 0;
  const TensorSteps& steps;
  const FeedbackFactors* feedback = nullptr;   ///< LDLQ over all columns; null: columns are independent
  std::span<const float> row_importance = {};  ///< [m], or empty: 1; only for statistics
  uint32_t tile_rows = 0;                      ///< runs of the trellis
  std::span<float> decoded = {};               ///< [m][n] filled with what the decoder returns, or empty
};

struct QuantizeStatistics {
  double squared_error =
      0;  ///< sum over all weights, of what the decoder returns: in f16, where that holds such weights
  double squared_weight = 0;  ///< sum over all weights
  double ideal_bits = 0;      ///< of all values under the codec's tables
  /// Sum over rows of row importance * e H e^T, e the row's error. With feedback that is the sum over columns of D_k
  /// q^2, q the quantizer's own error (LDLQ), less what the damping of H adds; without, H = I. Half of it is nats per
  /// token if Hessian and importance are of the Fisher kind.
  double weighted_error = 0;

  void add(const QuantizeStatistics& other);
};

/// The statistics of a tensor's values from which tables are fitted again, for each level, context and bank.
struct ValueStatistics {
  uint32_t banks = 1;
  std::vector<ValueHistogram> histograms;  ///< [K][16][banks], of k
  static constexpr double kExcessUnit = 4096;
  std::vector<double> excess, nonzero;  ///< [K]: sum of sign(q) (q - u) * kExcessUnit, count; both over q != 0
  explicit ValueStatistics(const CodecRecord& codec);
  void add(const ValueStatistics& other, double factor);
};

/// Chunks -> analysis -> trellis search or rounding, column by column where there is feedback. statistics and values
/// may be null. Parallel over bands of tile_rows rows (and columns, without feedback); the result does not depend on
/// the runner.
QuantizedTensor quantize_tensor(const QuantizeJob& job, Runner& runner, QuantizeStatistics* statistics,
                                ValueStatistics* values);

}  // namespace nwc
