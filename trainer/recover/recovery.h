// Recovery fine-tuning of a whole model: block by block, the layers that are not coded yet are tuned to compensate the
// errors of those that are (paper, section 3.3 and A.5).
#pragma once

#include "trainer/plan/rate_control.h"
#include "trainer/recover/recover_block.h"
#include "trainer/recover/recovery_files.h"

namespace nwc {

struct RecoveryChoices {
  bool enabled = false;
  /// The block gets the outputs of the coded blocks before it instead of the uncompressed model's. It then compensates
  /// their errors, too.
  bool drifted_inputs = true;
  RecoveryOptions options;
  std::vector<uint32_t> tokens;  ///< of the text to recover on
  uint32_t context = 0;          ///< tokens per sequence
  /// Keeps the blocks that are done, and has those of an interrupted run; what it leaves is the caller's to remove.
  RecoveryFiles* files = nullptr;
};

/// The source with tuned weights in place of some of its own: coding them at `log_step` with `fitted` gives what the
/// tuning reckoned with. In each block the matrices that give queries, keys and values are coded first, then the
/// output's, gate and up, down; after each of these the rest is tuned, gains and biases with it. Deterministic, from
/// whatever blocks choices.files has. Needs a model description. The result refers to `source`. calibration: what
/// `rate` was surveyed with, or null. Memory: the tuned weights, and four times [tokens][hidden]. errors: kUnsupported,
/// kCancelled, those of recover_block and of reading
Result<std::unique_ptr<ModelSource>> recover_model(const ModelSource& source, const Calibration* calibration,
                                                   RateModel* rate, const FittedCodec& fitted, double log_step,
                                                   const RecoveryChoices& choices, Runner& runner,
                                                   const Progress& progress, const Logger& log);

}  // namespace nwc
