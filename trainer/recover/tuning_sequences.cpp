#include "trainer/recover/tuning_sequences.h"

#include <utility>

#include "trainer/nn/random.h"

namespace nwc {

TuningSequences split_sequences(std::span<const uint32_t> lengths, double validation) {
  std::vector<Sequence> all;
  Eigen::Index at = 0;
  for (const uint32_t length : lengths) {
    all.push_back({at, length});
    at += length;
  }
  const size_t judges = static_cast<size_t>(validation * static_cast<double>(all.size()));
  if (judges == 0) return {all, all};
  TuningSequences out;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool judge = (i + 1) * judges / all.size() != i * judges / all.size();
    (judge ? out.judging : out.training).push_back(all[i]);
  }
  return out;
}

size_t batch_end(std::span<const Sequence> order, size_t first, uint64_t batch_tokens) {
  uint64_t tokens = 0;
  while (first < order.size() && tokens < batch_tokens) tokens += order[first++].length;
  return first;
}

void shuffle_sequences(uint64_t seed, uint64_t stream, uint64_t epoch, std::vector<Sequence>* order) {
  Random random({seed, stream, epoch});
  for (size_t i = order->size(); i > 1; --i) std::swap((*order)[i - 1], (*order)[random.below(i)]);
}

}  // namespace nwc
