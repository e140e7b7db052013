// Reads and writes checkpoints, from which a training run continues bit for bit (doc/format_codec.md, section
// TRAINING).
#pragma once

#include "trainer/optim/adam.h"
#include "trainer/train/freeze.h"
#include "trainer/train/train_options.h"

namespace nwc {

/// Random numbers and the order of the data follow from the seed and the step, so they need no state of their own.
struct TrainState {
  TrainOptions options;
  uint32_t data_digest = 0;  ///< ChunkDataset::digest
  uint64_t step = 0;         ///< steps done = updates of both optimizers
  TrainedParameters parameters;
  Adam main, auxiliary;  ///< of parameters.flat and parameters.quantiles
};

/// `codec`: with tables, so that the file holds a codec that can be looked at. Atomic.
Status save_checkpoint(const TrainState& state, const CodecModel& codec, const std::string& path);
/// safety: untrusted input, fully validated. errors name the file and field
Result<TrainState> load_checkpoint(const std::string& path);

}  // namespace nwc
