// The files of a calibration (doc/architecture.md, Calibration).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// The place of a tensor's statistics.
struct CalibratedTensor {
  std::string name;
  std::string file;     ///< in the calibration's folder
  std::string hessian;  ///< the tensor of the same file whose `.hessian` it shares (its own name, too); empty: none
  uint64_t m = 0, n = 0;
};

/// The content of calibration.json. This file is written last, so a calibration that has it is complete.
struct CalibrationIndex {
  std::string hash;
  uint64_t tokens = 0;
  uint32_t context = 0;
  std::vector<CalibratedTensor> tensors;
};

Status write_calibration_index(const std::string& folder, const CalibrationIndex& index);
/// errors: kNotFound (no such file), kCorrupt, kIo
Result<CalibrationIndex> read_calibration_index(const std::string& folder);

/// Statistics of one tensor on their way to the file; null: not written.
struct TensorMoments {
  std::string name;
  const RowMatrix<float>* hessian = nullptr;  ///< [n][n]
  const RowMatrix<float>* fisher = nullptr;   ///< [n][n]
  std::vector<float> row_importance;          ///< [m]
  double effective_tokens = 0;                ///< of `.fisher` (TensorStatistics)
};

/// errors: kCorrupt (values that are not finite), kIo
Status write_moments(const std::string& path, const std::string& hash, std::span<const TensorMoments> tensors);
/// Returns whether `path` is a complete file of this calibration.
bool has_moments(const std::string& path, const std::string& hash);

/// TensorStatistics::effective_tokens of tensors of one file. errors: kCorrupt, kIo
Result<std::vector<double>> read_effective_tokens(const std::string& path, std::span<const CalibratedTensor> tensors);

/// Divides the values by their mean. Values below a millionth of the mean are raised to that, so that all are positive.
std::vector<float> normalized_importance(std::span<const double> values);

}  // namespace nwc
