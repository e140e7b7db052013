// Recovery fine-tuning of a whole model: block by block, the layers that are not coded yet are tuned to compensate the
// errors of those that are (paper, section 3.3 and A.5).
#pragma once

#include <map>

#include "trainer/plan/rate_control.h"
#include "trainer/recover/drift.h"
#include "trainer/recover/recover_block.h"
#include "trainer/recover/recovery_files.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {

struct RecoveryChoices {
  DriftOptions drift;  ///< before a product is coded
  bool tune = false;   ///< what is not coded yet, after each product that is
  bool enabled() const { return drift.enabled || tune; }
  /// The block gets the outputs of the coded blocks before it instead of the uncompressed model's. It then compensates
  /// their errors, too.
  bool drifted_inputs = true;
  RecoveryOptions options;
  std::vector<uint32_t> tokens;  ///< of the text to recover on
  uint32_t context = 0;          ///< tokens per sequence
  /// Keeps the blocks that are done, and has those of an interrupted run; what it leaves is the caller's to remove.
  RecoveryFiles* files = nullptr;
};

/// What is left to store of a model whose blocks were recovered.
struct RecoveredModel {
  /// With tuned vectors, and tuned matrices that are not coded. Null: nothing was recovered.
  std::unique_ptr<ModelSource> source;
  std::map<size_t, CodedPart> parts;  ///< by their numbers there: tensors of the blocks, coded
};

/// The blocks of the source, moved, tuned, and coded at `log_step` with `fitted`. In each block the matrices that give
/// queries, keys and values are coded first, then the output's, gate and up, down; after each of these the rest is
/// tuned, gains and biases with it. Deterministic, from whatever blocks choices.files has. Needs a model description.
/// The result refers to `source`. calibration: what `rate` was surveyed with, or null. Memory: the coded blocks, what
/// DriftCorrection and recover_block take, and four times [tokens][hidden]. errors: kUnsupported, kCancelled, those of
/// DriftCorrection, recover_block and of reading
Result<RecoveredModel> recover_model(const ModelSource& source, const Calibration* calibration, RateModel* rate,
                                     const FittedCodec& fitted, double log_step, const RecoveryChoices& choices,
                                     Runner& runner, const Progress& progress, const Logger& log);

}  // namespace nwc
