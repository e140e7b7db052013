#include "trainer/calib/row_shares.h"

#include <algorithm>
#include <numeric>

namespace nwc {

std::vector<double> token_frequencies(std::span<const uint32_t> tokens, uint32_t vocab) {
  std::vector<double> out(vocab, 0.0);
  for (const uint32_t token : tokens) out[token] += 1;
  const double total = static_cast<double>(tokens.size());
  const double once = static_cast<double>(std::count(out.begin(), out.end(), 1.0));
  const double unseen = static_cast<double>(std::count(out.begin(), out.end(), 0.0));
  const double share = unseen == 0 ? 0 : std::clamp(once / total, std::min(0.5, 0.5 / total), 0.5);
  for (double& v : out) {
    const double frequency = v == 0 ? share / unseen : (1 - share) * v / total;
    v = frequency * static_cast<double>(vocab);
  }
  return out;
}

void add_foreign_share(std::span<double> importance) {
  const double sum = std::accumulate(importance.begin(), importance.end(), 0.0);
  const double to_mean = sum > 0 ? static_cast<double>(importance.size()) / sum : 0;
  for (double& v : importance) v = sum > 0 ? (1 - kForeignShare) * v * to_mean + kForeignShare : 1;
}

}  // namespace nwc
