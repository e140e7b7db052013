#include "trainer/data/atomic_folder.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "runtime/base/os.h"
#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

/// The path without slashes at its end; of an empty folder that is there, the path that it really has.
Result<std::string> resolve_target(const std::string& path) {
  // Not by lexically_normal(): what is before a ".." may be a link, or not be there.
  std::string plain = path;
  while (plain.size() > 1 && (os::name_begin(plain) == plain.size() || plain.ends_with("/."))) plain.pop_back();
  std::error_code error;
  const fs::file_status status = fs::status(fs_path(plain), error);
  if (!fs::exists(status)) {
    if (fs::is_symlink(fs::symlink_status(fs_path(plain), error))) {
      return invalid_argument(path + " is a link that leads nowhere; choose another folder");
    }
    const std::string around = plain.substr(0, os::name_begin(plain));
    if (!around.empty() && !fs::is_directory(fs_path(around), error)) {
      return invalid_argument(path + ": the folder " + around + " does not exist; make it first");
    }
    return plain;
  }
  if (!fs::is_directory(status)) return invalid_argument(path + " is there and not a folder; choose another name");
  const bool empty = fs::is_empty(fs_path(path), error);
  if (error) return io_error(path + ": " + error.message());
  if (!empty) return invalid_argument(path + " is there and not empty; choose another folder, or empty it");
  const fs::path real = fs::canonical(fs_path(path), error);
  if (error) return io_error(path + ": " + error.message());
  return real.string();
}

}  // namespace

Status AtomicFolder::check(const std::string& path) { return as_status(create(path)); }

Result<AtomicFolder> AtomicFolder::create(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(std::string target, resolve_target(path));
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::string temporary = temporary_name(target, attempt);
    if (os::make_folder(temporary)) return AtomicFolder(std::move(target), std::move(temporary));
    if (errno != EEXIST) return io_error(temporary + ": cannot create: " + std::strerror(errno));
  }
  return io_error(path + ": too many leftover .partial folders beside it; remove them");
}

AtomicFolder::AtomicFolder(std::string path, std::string temporary)
    : path_(std::move(path)), temporary_(std::move(temporary)), known_(temporary_, Temporary::kFolder) {}

AtomicFolder::AtomicFolder(AtomicFolder&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, {})), known_(std::move(other.known_)) {}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(fs_path(temporary_), ignored);
}

Status AtomicFolder::write(const std::string& name, Bytes bytes) const {
  NWC_ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::create(file(name)));
  NWC_TRY(out.write(bytes));
  return out.commit();
}

Status AtomicFolder::commit() {
  if (!os::rename_over(temporary_, path_)) return io_error(path_ + ": rename: " + std::strerror(errno));
  temporary_.clear();
  known_.forget();
  sync_directory_of(path_);
  return {};
}

}  // namespace nwc
