#include "runtime/graph/resize.h"

#include <algorithm>
#include <cmath>

namespace nwc {
namespace {

double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

double triangle(double x) { return std::max(0.0, 1 - std::abs(x)); }

ResizeTaps four_neighbours(double centre, uint32_t from) {
  ResizeTaps taps;
  const double left = std::floor(centre - 0.5);
  for (int i = -1; i <= 2; ++i) {
    const double at = std::clamp(left + i, 0.0, static_cast<double>(from - 1));
    taps.at.push_back(static_cast<uint32_t>(at));
    taps.weights.push_back(cubic(centre - 0.5 - left - i, -0.75));
  }
  return taps;
}

ResizeTaps antialiased(double centre, double scale, uint32_t from, bool bicubic) {
  ResizeTaps taps;
  const double width = std::max(scale, 1.0), support = (bicubic ? 2 : 1) * width;
  const auto begin = static_cast<uint32_t>(std::max(0.0, std::floor(centre - support + 0.5)));
  const auto end = static_cast<uint32_t>(std::min(static_cast<double>(from), std::floor(centre + support + 0.5)));
  double sum = 0;
  for (uint32_t i = begin; i < end; ++i) {
    const double x = (i + 0.5 - centre) / width, weight = bicubic ? cubic(x, -0.5) : triangle(x);
    taps.at.push_back(i);
    taps.weights.push_back(weight);
    sum += weight;
  }
  for (double& weight : taps.weights) weight /= sum;
  return taps;
}

}  // namespace

std::vector<ResizeTaps> resize_taps(Resize kind, uint32_t from, uint32_t to) {
  std::vector<ResizeTaps> all;
  all.reserve(to);
  const double scale = static_cast<double>(from) / to;
  for (uint32_t i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    if (kind == Resize::kBicubic) {
      all.push_back(four_neighbours(centre, from));
    } else {
      all.push_back(antialiased(centre, scale, from, kind == Resize::kBicubicAntialiased));
    }
  }
  return all;
}

}  // namespace nwc
