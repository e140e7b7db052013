// The cache of finished calibrations of all models and texts. It limits the room that they take (doc/architecture.md,
// Calibration).
#pragma once

#include <string>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

namespace nwc {

/// The cache is a folder with one folder for each calibration, named by the hash of model, text and options. The same
/// model and text therefore find the same calibration, whatever file a command writes. A process locks the folder that
/// it uses. So two commands never make the same calibration side by side, and the clean-up of one command never removes
/// the folder of another.
class CalibrationCache {
 public:
  /// most_bytes: the size to which trim() reduces the cache.
  CalibrationCache(std::string root, uint64_t most_bytes) : root_(std::move(root)), most_bytes_(most_bytes) {}
  ~CalibrationCache();
  CalibrationCache(const CalibrationCache&) = delete;
  CalibrationCache& operator=(const CalibrationCache&) = delete;

  /// Creates the folder of `hash` if it does not exist, and locks it. If it holds no finished calibration, the lock is
  /// exclusive, and the call waits while another process makes one. errors: kIo, kCancelled (while waiting)
  Result<std::string> enter(const std::string& hash, const Progress& progress);
  /// Turns the lock into a shared one. To be called when the calibration is finished.
  void share();
  /// The folder that enter() has locked; empty if there is none.
  const std::string& folder() const { return folder_; }
  /// Bytes that a new calibration finds: what is free where the cache lies, and what trim() could remove.
  uint64_t room() const;
  /// The size of the folder that enter() has locked.
  uint64_t folder_bytes() const;
  /// Removes the least recently used calibrations until the rest, this one included, takes at most most_bytes. Those
  /// that are in use stay.
  void trim(const Logger& log);

  /// The name of the folder of `hash`, whether it exists or not.
  std::string folder_of(const std::string& hash) const { return root_ + "/" + hash; }

 private:
  const std::string root_;
  const uint64_t most_bytes_;
  std::string folder_;
  int lock_ = -1;
};

}  // namespace nwc
