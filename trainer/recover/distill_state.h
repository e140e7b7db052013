// Where a distillation (distill_norms.h) is between two updates, and how it is kept for a run that goes on from there.
#pragma once

#include <string>
#include <vector>

#include "trainer/nn/matrix.h"
#include "trainer/optim/adam.h"
#include "trainer/recover/distill_norms.h"

namespace nwc {

/// A vector that is tuned: `size` numbers of DistillState::values from `at` on.
struct TunedVector {
  size_t tensor = 0;
  Eigen::Index at = 0, size = 0;
  float offset = 0;  ///< what is used less what is stored
  double scale = 0;  ///< of the learning rate
  Adam adam;
};

/// All that the rest of a distillation depends on.
struct DistillState {
  RowVector<float> values;  ///< gains and biases of the whole model
  std::vector<TunedVector> tuned;
  uint64_t updates = 0;   ///< that are done
  uint64_t epochs = 0;    ///< that are judged
  RowVector<float> best;  ///< as stored; zeros with best_epoch = 0
  uint32_t best_epoch = 0;
  double before = 0, after = 0;  ///< as in DistillResult
};

/// Of everything that decides on the result: the arguments of distill_norms. Reads both models, a tensor at a time.
/// errors: those of reading
Result<std::string> distill_hash(const ModelSource& source, const ModelSource& coded,
                                 const std::vector<bool>& replaceable, const DistillChoices& choices);
/// Whether there was a state of this hash; else *state is what it was. Its vectors have their sizes.
bool take_state(const std::string& hash, DistillState* state, RecoveryFiles* files, const Logger& log);
void keep_state(const std::string& hash, DistillState* state, RecoveryFiles* files, const Logger& log);

}  // namespace nwc
