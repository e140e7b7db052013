// Turns counts into frozen integer tables (doc/format.md, section 4, items 5 and 6).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/format/codec_record.h"

namespace nwc {

/// Weighted counts of integer values in the range of an i16. The counts are not integers, so that add() can mix in a
/// smooth prior such as a fitted density.
class ValueHistogram {
 public:
  void add(int16_t k, double weight = 1);
  /// Adds `other`, each count times `factor`.
  void add(const ValueHistogram& other, double factor = 1);

  bool empty() const { return count_.empty(); }
  double total() const;
  int32_t first() const { return first_; }                      ///< value of counts()[0]
  const std::vector<double>& counts() const { return count_; }  ///< consecutive values from first()
  /// Total bits under the histogram's own distribution: -sum c log2(c / total).
  double ideal_bits() const;

 private:
  void cover(int32_t low, int32_t high);
  int32_t first_ = 0;
  std::vector<double> count_;
};

/// Integer frequencies >= 1 that add up to 4096 and minimise sum count * -log2(freq): exact (greedy exchange on a
/// separable concave objective). 1 to 4096 counts, none negative.
std::vector<uint16_t> normalize_frequencies(std::span<const double> counts);

/// The table with the fewest expected bits for `histogram`: raw bits, alphabet and frequencies. Values outside the
/// alphabet are escaped (16 bits more). entry_bits is charged for each entry of the table, for tables that have to be
/// paid for. An empty histogram gives a table for zeros.
FrequencyTable fit_table(const ValueHistogram& histogram, double entry_bits = 0);

/// Bits of all of the histogram's values under a table.
double table_bits(const FrequencyTable& table, const ValueHistogram& histogram);

struct TableClusters {
  std::vector<uint16_t> table_of_context;
  std::vector<FrequencyTable> tables;
  double bits = 0;  ///< of all histograms under their tables; the tables themselves not counted
};
/// Finds few tables for many contexts. The pair of tables that costs least is merged until at most max_tables remain
/// and every further merge would cost more than cost_per_table_bits. Then every context moves to its cheapest table.
/// Contexts without counts share the table of their nearest neighbour in index. Deterministic.
TableClusters cluster_tables(std::span<const ValueHistogram> contexts, uint32_t max_tables, double cost_per_table_bits);

}  // namespace nwc
