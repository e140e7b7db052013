#include "trainer/eval/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "trainer/eval/quantile.h"

namespace nwc {
namespace {

constexpr size_t kDraws = 1000;
constexpr uint64_t kSeed = 1;

}  // namespace

std::vector<uint64_t> bootstrap_blocks(std::span<const uint64_t> windows) {
  const uint64_t tokens = std::accumulate(windows.begin(), windows.end(), uint64_t{0});
  const uint64_t length = std::clamp<uint64_t>(tokens / kBootstrapBlocks, 1, kBootstrapBlock);
  std::vector<uint64_t> blocks;
  for (const uint64_t window : windows) {
    for (uint64_t at = 0; at < window; at += length) blocks.push_back(std::min(length, window - at));
  }
  return blocks;
}

MeanWithError bootstrap_mean(std::span<const double> values, std::span<const uint64_t> blocks) {
  MeanWithError out;
  if (values.empty()) return out;
  std::vector<double> sums;
  size_t at = 0;
  for (const uint64_t block : blocks) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(at);
    sums.push_back(std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(block), 0.0));
    at += block;
  }
  out.mean = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(values.size());
  out.low = out.high = out.mean;
  if (sums.size() < 2) return out;

  std::mt19937_64 random(kSeed);
  std::vector<double> means(kDraws);
  for (double& mean : means) {
    double sum = 0;
    uint64_t tokens = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t block = random() % sums.size();
      sum += sums[block];
      tokens += blocks[block];
    }
    mean = sum / static_cast<double>(tokens);
  }
  double squares = 0;
  const double centre = std::accumulate(means.begin(), means.end(), 0.0) / double{kDraws};
  for (const double mean : means) squares += (mean - centre) * (mean - centre);
  out.standard_error = std::sqrt(squares / double{kDraws - 1});
  std::sort(means.begin(), means.end());
  out.low = quantile(means, 0.025);
  out.high = quantile(means, 0.975);
  return out;
}

}  // namespace nwc
