// Distillation (trainer/recover/distill_norms.h) into a file that only waits to be committed.
#pragma once

#include "trainer/codec/container_write.h"
#include "trainer/plan/model_plan.h"
#include "trainer/recover/distill_norms.h"

namespace nwc {

/// A vector of floats that is stored as it is. For distill_file it must not be deflated.
bool can_be_distilled(const ModelSource& source, const PlannedTensor& planned);

/// Tunes the gains and biases of the model that `writer` has written, all of whose tensors are there in the order of
/// `plan`, and puts them in place. What cannot be tuned (predictions that are not finite) is left as it is, with a
/// warning in the log: the file is good without. errors: kCancelled, kIo
Result<DistillResult> distill_file(const ModelSource& source, const std::vector<PlannedTensor>& plan,
                                   const DistillChoices& choices, Runner& runner, const Progress& progress,
                                   const Logger& log, ModelWriter* writer);

}  // namespace nwc
