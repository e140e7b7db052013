// What recovery fine-tuning and distillation share: which sequences of a text train and which judge, in what order, and
// what is not tuned.
#pragma once

#include <span>
#include <vector>

#include "runtime/format/block_spec.h"
#include "trainer/nn/matrix.h"

namespace nwc {

struct Sequence {
  Eigen::Index begin = 0;  ///< first token
  uint32_t length = 0;
};

struct TuningSequences {
  std::vector<Sequence> training, judging;
};
/// Sequences lie one after another. Judges are spread over the text; with too few sequences for one all train and
/// judge. validation: share of the judges
TuningSequences split_sequences(std::span<const uint32_t> lengths, double validation);

/// The end of the batch that begins with sequence `first`: whole sequences, at least so many tokens if there are.
size_t batch_end(std::span<const Sequence> order, size_t first, uint64_t batch_tokens);

/// Puts them into the order of an epoch. stream: names the random numbers' purpose
void shuffle_sequences(uint64_t seed, uint64_t stream, uint64_t epoch, std::vector<Sequence>* order);

/// Routers stay as they are: the gradient does not see that a token goes to other experts.
inline bool decides(Role role) {
  return role == Role::kRouter || role == Role::kRouterBias || role == Role::kSharedGate;
}

}  // namespace nwc
