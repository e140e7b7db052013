// The passes of a calibration: forward, head, backward.
#pragma once

#include <span>

#include "trainer/calib/calibration.h"
#include "trainer/calib/calibration_files.h"

namespace nwc {

/// What the passes will leave behind, known from the model's description alone.
std::vector<CalibratedTensor> calibrated_tensors(const ModelRecord& model);

/// Writes the files of every tensor of `index` into `folder`; files of this calibration that are there are kept. The
/// index itself is the caller's.
/// errors: those of Calibration::run
Status run_calibration(const ModelSource& source, std::span<const uint32_t> tokens, const CalibrationIndex& index,
                       const CalibrationOptions& options, const std::string& folder, Runner& runner,
                       const Progress& progress, const Logger& log);

}  // namespace nwc
