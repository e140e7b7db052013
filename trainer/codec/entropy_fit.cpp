#include "trainer/codec/entropy_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace nwc {
namespace {

double x_log2_x(double x) { return x > 0 ? x * std::log2(x) : 0; }

/// Bits of `counts` under frequencies of sum 4096.
double coded_bits(std::span<const double> counts, std::span<const uint16_t> freq) {
  double bits = 0;
  for (size_t i = 0; i < counts.size(); ++i) bits += counts[i] * (kProbBits - std::log2(static_cast<double>(freq[i])));
  return bits;
}

/// Merging candidates differ little in entropy; only this many neighbours in that order are looked at.
constexpr size_t kNeighbours = 12;

struct Cluster {
  ValueHistogram histogram;
  double bits = 0;     ///< ideal, of the whole histogram
  double entropy = 0;  ///< per value
  std::vector<uint32_t> contexts;
};

double merge_cost(const Cluster& a, const Cluster& b) {
  ValueHistogram both = a.histogram;
  both.add(b.histogram);
  return both.ideal_bits() - a.bits - b.bits;
}

void refresh(Cluster* c) {
  c->bits = c->histogram.ideal_bits();
  c->entropy = c->bits / c->histogram.total();
}

}  // namespace

void ValueHistogram::cover(int32_t low, int32_t high) {
  if (count_.empty()) {
    first_ = low;
    count_.assign(static_cast<size_t>(high - low) + 1, 0);
    return;
  }
  if (low < first_) {
    count_.insert(count_.begin(), static_cast<size_t>(first_ - low), 0.0);
    first_ = low;
  }
  if (high < first_) return;
  const size_t size = static_cast<size_t>(high - first_) + 1;
  if (size > count_.size()) count_.resize(size, 0);
}

void ValueHistogram::add(int16_t k, double weight) {
  cover(k, k);
  count_[static_cast<size_t>(k - first_)] += weight;
}

void ValueHistogram::add(const ValueHistogram& other, double factor) {
  if (other.empty()) return;
  cover(other.first_, other.first_ + static_cast<int32_t>(other.count_.size()) - 1);
  const size_t shift = static_cast<size_t>(other.first_ - first_);
  for (size_t i = 0; i < other.count_.size(); ++i) count_[shift + i] += factor * other.count_[i];
}

double ValueHistogram::total() const { return std::accumulate(count_.begin(), count_.end(), 0.0); }

double ValueHistogram::ideal_bits() const {
  double bits = x_log2_x(total());
  for (double c : count_) bits -= x_log2_x(c);
  return bits;
}

std::vector<uint16_t> normalize_frequencies(std::span<const double> counts) {
  assert(!counts.empty() && counts.size() <= kProbScale);
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  std::vector<uint16_t> freq(counts.size(), 1);
  int32_t missing = static_cast<int32_t>(kProbScale);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (total > 0) {
      const double share = std::floor(counts[i] / total * kProbScale);
      freq[i] = static_cast<uint16_t>(std::clamp(share, 1.0, static_cast<double>(kProbScale)));
    }
    missing -= freq[i];
  }
  // What one unit more would save and one unit less would cost, in bits. Ties go to the lower index.
  std::vector<double> gain(freq.size()), loss(freq.size());
  const auto change = [&](size_t i, int by) {
    freq[i] = static_cast<uint16_t>(freq[i] + by);
    gain[i] = counts[i] * std::log2(1 + 1.0 / freq[i]);
    loss[i] = freq[i] > 1 ? counts[i] * std::log2(freq[i] / (freq[i] - 1.0)) : std::numeric_limits<double>::infinity();
  };
  const auto best_gain = [&] { return static_cast<size_t>(std::max_element(gain.begin(), gain.end()) - gain.begin()); };
  const auto least_loss = [&] {
    return static_cast<size_t>(std::min_element(loss.begin(), loss.end()) - loss.begin());
  };
  if (missing > static_cast<int32_t>(freq.size())) {  // only when nothing was counted
    freq[0] = static_cast<uint16_t>(freq[0] + missing);
    return freq;
  }
  for (size_t i = 0; i < freq.size(); ++i) change(i, 0);
  for (; missing > 0; --missing) change(best_gain(), +1);
  for (; missing < 0; ++missing) change(least_loss(), -1);
  // A separable concave sum is at its maximum once no exchange of one unit helps. The margin keeps rounding errors
  // from exchanging back and forth.
  for (;;) {
    const size_t up = best_gain(), down = least_loss();
    if (gain[up] <= loss[down] * (1 + 1e-9) + 1e-9) break;
    change(up, +1);
    change(down, -1);
  }
  return freq;
}

FrequencyTable fit_table(const ValueHistogram& histogram, double entry_bits) {
  FrequencyTable best;
  best.freq = {static_cast<uint16_t>(kProbScale - 1), 1};
  const double total = histogram.total();
  if (!(total > 0)) return best;

  // Tails below these shares are left to the escape; which cut pays depends on the counts, so try.
  static constexpr double kTails[] = {0, 1e-7, 1e-6, 1e-5, 5e-5, 2e-4, 1e-3, 4e-3, 1.5e-2};
  double best_bits = std::numeric_limits<double>::infinity();
  for (uint32_t r = 0; r <= kMaxRawBits; ++r) {
    const int32_t first = histogram.first() >> r;
    const int32_t last = (histogram.first() + static_cast<int32_t>(histogram.counts().size()) - 1) >> r;
    std::vector<double> bins(static_cast<size_t>(last - first + 1), 0);
    for (size_t i = 0; i < histogram.counts().size(); ++i) {
      bins[static_cast<size_t>(((histogram.first() + static_cast<int32_t>(i)) >> r) - first)] += histogram.counts()[i];
    }
    size_t tried_low = SIZE_MAX, tried_high = SIZE_MAX;
    for (const double tail : kTails) {
      size_t low = 0, high = bins.size();  // alphabet [low, high)
      const double cut = tail * total / 2;
      for (double sum = 0; low + 1 < high && (sum += bins[low]) <= cut;) ++low;
      for (double sum = 0; low + 1 < high && (sum += bins[high - 1]) <= cut;) --high;
      while (high - low > kMaxAlphabet - 1) {  // the lighter end goes
        if (bins[low] < bins[high - 1])
          ++low;
        else
          --high;
      }
      if (low == tried_low && high == tried_high) continue;
      tried_low = low;
      tried_high = high;
      std::vector<double> counts(bins.begin() + static_cast<ptrdiff_t>(low),
                                 bins.begin() + static_cast<ptrdiff_t>(high));
      const double inside = std::accumulate(counts.begin(), counts.end(), 0.0);
      counts.push_back(std::max(0.0, total - inside));
      std::vector<uint16_t> freq = normalize_frequencies(counts);
      const double bits =
          coded_bits(counts, freq) + inside * r + counts.back() * 16 + entry_bits * static_cast<double>(counts.size());
      if (bits < best_bits) {
        best_bits = bits;
        best.raw_bits = static_cast<uint8_t>(r);
        best.min = static_cast<int16_t>(first + static_cast<int32_t>(low));
        best.freq = std::move(freq);
      }
    }
  }
  return best;
}

double table_bits(const FrequencyTable& table, const ValueHistogram& histogram) {
  double bits = 0;
  const int32_t count = static_cast<int32_t>(table.freq.size()) - 1;
  for (size_t i = 0; i < histogram.counts().size(); ++i) {
    const double c = histogram.counts()[i];
    if (c == 0) continue;
    const int32_t s = ((histogram.first() + static_cast<int32_t>(i)) >> table.raw_bits) - table.min;
    const bool escaped = s < 0 || s >= count;
    const double f = escaped ? table.freq.back() : table.freq[static_cast<size_t>(s)];
    bits += c * (kProbBits - std::log2(f) + (escaped ? 16 : table.raw_bits));
  }
  return bits;
}

TableClusters cluster_tables(std::span<const ValueHistogram> contexts, uint32_t max_tables,
                             double cost_per_table_bits) {
  assert(max_tables >= 1);
  std::vector<Cluster> clusters;
  for (size_t i = 0; i < contexts.size(); ++i) {
    if (!(contexts[i].total() > 0)) continue;
    Cluster& c = clusters.emplace_back();
    c.histogram = contexts[i];
    c.contexts = {static_cast<uint32_t>(i)};
    refresh(&c);
  }
  const auto by_entropy = [](const Cluster& a, const Cluster& b) {
    return a.entropy != b.entropy ? a.entropy < b.entropy : a.contexts[0] < b.contexts[0];
  };
  std::sort(clusters.begin(), clusters.end(), by_entropy);

  // costs[i][d]: of merging cluster i with the d-th one behind it.
  std::vector<std::array<double, kNeighbours>> costs(clusters.size());
  const auto update = [&](size_t i) {
    for (size_t d = 0; d < kNeighbours; ++d) {
      const size_t j = i + d + 1;
      costs[i][d] =
          j < clusters.size() ? merge_cost(clusters[i], clusters[j]) : std::numeric_limits<double>::infinity();
    }
  };
  for (size_t i = 0; i < clusters.size(); ++i) update(i);
  while (clusters.size() > 1) {
    size_t bi = 0, bd = 0;
    for (size_t i = 0; i < clusters.size(); ++i) {
      for (size_t d = 0; d < kNeighbours; ++d) {
        if (costs[i][d] < costs[bi][bd]) bi = i, bd = d;
      }
    }
    if (clusters.size() <= max_tables && costs[bi][bd] >= cost_per_table_bits) break;
    const size_t bj = bi + bd + 1;
    Cluster merged = std::move(clusters[bi]);
    merged.histogram.add(clusters[bj].histogram);
    merged.contexts.insert(merged.contexts.end(), clusters[bj].contexts.begin(), clusters[bj].contexts.end());
    refresh(&merged);
    for (const size_t gone : {bj, bi}) {
      clusters.erase(clusters.begin() + static_cast<ptrdiff_t>(gone));
      costs.erase(costs.begin() + static_cast<ptrdiff_t>(gone));
    }
    const auto at = std::lower_bound(clusters.begin(), clusters.end(), merged, by_entropy);
    const size_t where = static_cast<size_t>(at - clusters.begin());
    clusters.insert(at, std::move(merged));
    costs.emplace(costs.begin() + static_cast<ptrdiff_t>(where));
    // Windows that held one of the three positions have shifted.
    const size_t from = std::min(bi, where);
    const size_t to = std::min(clusters.size(), std::max(bj, where) + 1);
    for (size_t i = from > kNeighbours ? from - kNeighbours : 0; i < to; ++i) update(i);
  }

  TableClusters out;
  out.table_of_context.assign(contexts.size(), UINT16_MAX);
  if (clusters.empty()) {
    out.table_of_context.assign(contexts.size(), 0);
    out.tables.push_back(fit_table({}));
    return out;
  }
  for (size_t c = 0; c < clusters.size(); ++c) {
    for (uint32_t i : clusters[c].contexts) out.table_of_context[i] = static_cast<uint16_t>(c);
    out.tables.push_back(fit_table(clusters[c].histogram));
  }
  // Move every context to its cheapest table, then fit again; a table that lost all contexts is dropped.
  std::vector<ValueHistogram> pooled(out.tables.size());
  for (size_t i = 0; i < contexts.size(); ++i) {
    if (out.table_of_context[i] == UINT16_MAX) continue;
    double least = std::numeric_limits<double>::infinity();
    for (size_t t = 0; t < out.tables.size(); ++t) {
      const double bits = table_bits(out.tables[t], contexts[i]);
      if (bits < least) least = bits, out.table_of_context[i] = static_cast<uint16_t>(t);
    }
    pooled[out.table_of_context[i]].add(contexts[i]);
  }
  std::vector<uint16_t> renumbered(out.tables.size(), 0);
  std::vector<FrequencyTable> tables;
  for (size_t t = 0; t < pooled.size(); ++t) {
    if (pooled[t].empty()) continue;
    renumbered[t] = static_cast<uint16_t>(tables.size());
    tables.push_back(fit_table(pooled[t]));
    out.bits += table_bits(tables.back(), pooled[t]);
  }
  out.tables = std::move(tables);
  for (uint16_t& t : out.table_of_context) {
    if (t != UINT16_MAX) t = renumbered[t];
  }
  const std::vector<uint16_t> counted = out.table_of_context;
  for (size_t i = 0; i < counted.size(); ++i) {
    for (size_t d = 1; out.table_of_context[i] == UINT16_MAX; ++d) {
      if (i >= d && counted[i - d] != UINT16_MAX) {
        out.table_of_context[i] = counted[i - d];
      } else if (i + d < counted.size() && counted[i + d] != UINT16_MAX) {
        out.table_of_context[i] = counted[i + d];
      }
    }
  }
  return out;
}

}  // namespace nwc
