// Where calibrations are kept, of all models and texts, and how much room they may take (doc/architecture.md,
// Calibration).
#pragma once

#include <string>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

namespace nwc {

/// A folder with one folder for each calibration, named by its hash of model, text and options: whatever file a
/// command writes, the same model and text find the same one. A process has its own locked while it uses it, so that
/// two commands do not calibrate the same side by side, and none loses its folder to the clean-up of another.
class CalibrationCache {
 public:
  /// most_bytes: what trim() leaves of those that are not in use.
  CalibrationCache(std::string root, uint64_t most_bytes) : root_(std::move(root)), most_bytes_(most_bytes) {}
  ~CalibrationCache();
  CalibrationCache(const CalibrationCache&) = delete;
  CalibrationCache& operator=(const CalibrationCache&) = delete;

  /// The folder of `hash`, made if need be, and locked: for this process alone if there is no finished calibration in
  /// it, which waits for another one that makes it. errors: kIo, kCancelled (while waiting)
  Result<std::string> enter(const std::string& hash, const Progress& progress);
  /// Others may use the folder too from now on: it is finished.
  void share();
  /// The folder that was entered; empty: none.
  const std::string& folder() const { return folder_; }
  /// Bytes of the folder that was entered.
  uint64_t folder_bytes() const;
  /// Removes the calibrations that were not used for the longest time until the rest, this one included, takes no more
  /// than most_bytes. Those in use stay.
  void trim(const Logger& log);

  /// The folder of `hash`, made or not.
  std::string folder_of(const std::string& hash) const { return root_ + "/" + hash; }

 private:
  const std::string root_;
  const uint64_t most_bytes_;
  std::string folder_;
  int lock_ = -1;
};

}  // namespace nwc
