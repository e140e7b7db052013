#include "trainer/calib/calibration_cache.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "trainer/data/fs_path.h"
#include "trainer/data/os_files.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

/// Its time of change says when the calibration was last used.
constexpr const char* kLockFile = "/lock";
constexpr size_t kHashDigits = 16;

bool is_hash(const std::string& name) {
  return name.size() == kHashDigits && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

uint64_t bytes_below(const fs::path& folder) {
  uint64_t sum = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (at->is_regular_file(ignored)) sum += at->file_size(ignored);
  }
  return sum;
}

struct Unused {
  fs::path folder;
  fs::file_time_type last_use;
  uint64_t bytes = 0;
};

/// Removes the folder unless a process uses it.
bool remove_unused(const fs::path& folder) {
  const int fd = os::open_lock(folder.string() + kLockFile, false);
  if (fd < 0) return false;
  const bool free = os::try_lock(fd, os::Lock::kExclusive);
  std::error_code error;
  if (free) fs::remove_all(folder, error);
  os::close_file(fd);
  // Where a file that is open cannot be removed, the lock is the last to go.
  if (free && error) fs::remove_all(folder, error);
  return free && !error;
}

}  // namespace

CalibrationCache::~CalibrationCache() {
  if (lock_ >= 0) os::close_file(lock_);
}

Result<std::string> CalibrationCache::enter(const std::string& hash, const Progress& progress) {
  folder_ = folder_of(hash);
  std::error_code error;
  fs::create_directories(fs_path(folder_), error);
  if (error) return io_error(folder_ + ": cannot create the folder: " + error.message());
  const std::string path = folder_ + kLockFile;
  lock_ = os::open_lock(path, true);
  if (lock_ < 0) return io_error(path + ": cannot be opened: " + std::strerror(errno));
  // Finished calibrations are only read. One that is to be made is made by one process.
  while (!os::try_lock(
      lock_, fs::exists(fs_path(folder_ + "/calibration.json"), error) ? os::Lock::kShared : os::Lock::kExclusive)) {
    if (errno != EWOULDBLOCK) return io_error(path + ": cannot be locked: " + std::strerror(errno));
    if (!progress.report(0, 1)) return Status(StatusCode::kCancelled, "cancelled while another command calibrates");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  fs::last_write_time(fs_path(path), fs::file_time_type::clock::now(), error);
  return folder_;
}

void CalibrationCache::share() {
  if (lock_ >= 0) os::share_lock(lock_);
}

uint64_t CalibrationCache::folder_bytes() const { return folder_.empty() ? 0 : bytes_below(fs_path(folder_)); }

uint64_t CalibrationCache::room() const {
  std::error_code error;
  fs::path at = fs::absolute(fs_path(root_), error);
  while (!fs::exists(at, error) && at.has_relative_path()) at = at.parent_path();
  const fs::space_info space = fs::space(at, error);
  // Whoever cannot say how much there is has it.
  return error ? UINT64_MAX
               : uint64_t{space.available} + (fs::exists(fs_path(root_), error) ? bytes_below(fs_path(root_)) : 0);
}

void CalibrationCache::trim(const Logger& log) {
  std::vector<Unused> others;
  uint64_t sum = folder_bytes();
  std::error_code error;
  for (fs::directory_iterator at(fs_path(root_), error), end; !error && at != end; at.increment(error)) {
    const fs::path& folder = at->path();
    if (!is_hash(folder.filename().string()) || folder == fs_path(folder_)) continue;
    std::error_code missing;
    const fs::file_time_type last_use = fs::last_write_time(fs_path(folder.string() + kLockFile), missing);
    if (missing) continue;  // none of ours
    others.push_back({folder, last_use, bytes_below(folder)});
    sum += others.back().bytes;
  }
  std::sort(others.begin(), others.end(), [](const Unused& a, const Unused& b) { return a.last_use < b.last_use; });
  for (const Unused& other : others) {
    if (sum <= most_bytes_) return;
    if (!remove_unused(other.folder)) continue;
    sum -= other.bytes;
    log.log(LogLevel::kInfo, "removed " + other.folder.string() + ", the calibration that was not used for longest");
  }
}

}  // namespace nwc
