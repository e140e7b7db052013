// Predicts the time and the memory of a calibration, for estimates that write nothing.
#pragma once

#include "trainer/calib/calibration.h"

namespace nwc {

/// Measured seconds per token on this machine, with all workers of a runner at work.
struct BlockSpeed {
  double forward = 0;       ///< one block
  double backward = 0;      ///< one block backward, its forward pass before that not included
  double statistics = 0;    ///< second moments of one block's layers
  double head_forward = 0;  ///< final norm and logits, by the products that they take
};
/// Times one block of the model on made-up inputs. memory: one block's weights, and a sequence for each worker.
/// errors: those of ModelGraph::open and of reading
/// activations: as CalibrationOptions
Result<BlockSpeed> measure_block_speed(const ModelSource& source, uint32_t context, bool activations, Runner& runner);

/// Disk space that a finished calibration takes. errors: those of ModelGraph::open
Result<uint64_t> calibration_disk_bytes(const ModelSource& source, bool activations);

/// The time, memory and disk space that Calibration::run would take.
struct CalibrationEstimate {
  double seconds = 0;
  uint64_t disk_bytes = 0;    ///< of the finished calibration
  uint64_t memory_bytes = 0;  ///< at most
};
/// errors: those of ModelGraph::open
Result<CalibrationEstimate> estimate_calibration(const ModelSource& source, uint64_t tokens,
                                                 const CalibrationOptions& options, const BlockSpeed& speed);

/// Returns a calibration in which every error of every weight costs the same. Coding with it takes as long as coding
/// with a real calibration of this model. errors: those of ModelGraph::open
Result<std::unique_ptr<Calibration>> assumed_calibration(const ModelSource& source);

}  // namespace nwc
