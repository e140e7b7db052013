// The passes of a calibration: forward, head, backward.
#pragma once

#include <span>

#include "trainer/calib/calibration.h"
#include "trainer/calib/calibration_files.h"
#include "trainer/llm/model_graph.h"
#include "trainer/parallel/ranks.h"

namespace nwc {

/// The head takes as long as so many products with its matrix: forward, back, and into the moments of its input
/// (doc/measurements.md, "Size").
inline constexpr uint64_t kHeadPasses = 3;

/// Lists the statistics that the passes will write. They follow from the model's description and its tensors' names.
std::vector<CalibratedTensor> calibrated_tensors(const ModelGraph& graph, bool activations);

/// Writes the files of every tensor of `index` into `folder`, and keeps those of this calibration that are already
/// there. The caller writes the index itself. Ranks each take a part of the tokens; rank 0 has the sums and writes.
/// errors: those of Calibration::run
/// tokens, states: those of CalibrationInput.
Status run_calibration(const ModelGraph& graph, std::span<const uint32_t> tokens,
                       const CalibrationInput::States& states, const CalibrationIndex& index,
                       const CalibrationOptions& options, const std::string& folder, Ranks& ranks, Runner& runner,
                       const Progress& progress, const Logger& log);

}  // namespace nwc
