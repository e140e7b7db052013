// Finds the integers that stand for a run of latents, by rounding or, with a trellis, by the Viterbi algorithm. Both
// weigh the squared error against the bits of the frozen tables (doc/format.md, sections 5.3 and 5.6).
#pragma once

#include <span>
#include <vector>

#include "runtime/format/codec_record.h"
#include "runtime/format/trellis.h"
#include "trainer/search/rans_encode.h"
#include "trainer/search/viterbi.h"

namespace nwc {

/// A column's latents within one tile, top to bottom. One object a thread: it keeps scratch memory.
class LatentSearch {
 public:
  /// lambda: price of a bit in squared steps of the codec; 0: nearest point. The codec must outlive the search.
  LatentSearch(const CodecRecord& codec, const TableCosts& costs, double lambda);

  /// Minimises sum weight * (u - dequantized)^2 + lambda * bits. With a trellis the path starts in state 0 and is the
  /// best one, but for candidates further than the two nearest of each bank and parity, and for the unit in which costs
  /// are counted, a 1024th of a squared step with the largest weight.
  /// shapes: u, context, weight, q [count]; u in steps; context: second index of the context map; q: reconstruction
  /// indices
  void search(uint8_t level, std::span<const float> u, const uint8_t* context, const float* weight, int16_t* q);

  /// Returns the value that a decoder gets for q, in steps.
  float dequantize(uint8_t level, int16_t q) const {
    const float s = shrink_[level];
    return static_cast<float>(q) - (q > 0 ? s : q < 0 ? -s : 0.0f);
  }

 private:
  /// Prices of a table's values, with one more on either side for the escape.
  struct Row {
    int32_t first = 0;   ///< value of the first entry
    int32_t count = 0;   ///< entries
    uint32_t start = 0;  ///< in prices_
  };
  /// For one sample and each of the four sets (bank * 2 + parity): the better of the two candidates.
  struct Choice {
    int16_t q[4];
  };

  const Row& row(uint8_t level, uint32_t context, uint32_t bank) const {
    return rows_[codec_.table_of(level, context, bank)];
  }
  float price(const Row& r, int32_t k) const {
    const int32_t i = k - r.first;
    return prices_[r.start + static_cast<uint32_t>(i < 0 ? 0 : i < r.count ? i : r.count - 1)];
  }
  void round(uint8_t level, std::span<const float> u, const uint8_t* context, const float* weight, int16_t* q) const;
  /// unit: of metrics, times a squared step
  void choose(uint8_t level, uint32_t context, float u, float weight, float unit, Choice* choice,
              BranchMetrics* metrics) const;

  const CodecRecord& codec_;
  const Trellis* trellis_;
  ViterbiForward forward_ = nullptr;
  std::vector<float> shrink_;
  std::vector<Row> rows_;
  std::vector<float> prices_;
  std::vector<Choice> choices_;
  std::vector<BranchMetrics> metrics_;
  std::vector<uint8_t> decisions_;
};

}  // namespace nwc
