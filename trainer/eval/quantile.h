// Quantiles of values that were measured.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace nwc {

/// Value at quantile q of sorted values, interpolated linearly between neighbours; 0 if there are none.
inline double quantile(std::span<const double> sorted, double q) {
  if (sorted.empty()) return 0;
  const double at = q * static_cast<double>(sorted.size() - 1);
  const size_t below = std::min(static_cast<size_t>(at), sorted.size() - 1);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace nwc
