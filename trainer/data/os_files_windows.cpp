// Outputs, locks and scratch files on Windows. Twin of os_files_posix.cpp.
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// After windows.h, whose types it uses.
#include <fcntl.h>
#include <io.h>

#include <cerrno>
#include <filesystem>

#include "runtime/base/os_windows.h"
#include "trainer/data/os_files.h"

namespace nwc::os {
namespace {

namespace fs = std::filesystem;

constexpr DWORD kAccess = GENERIC_READ | GENERIC_WRITE | DELETE;

/// Neither a file that may only be read, nor a folder that takes no file.
bool writable(const std::string& path) {
  const DWORD attributes = GetFileAttributesW(wide(path).c_str());
  errno = attributes == INVALID_FILE_ATTRIBUTES ? ENOENT : EACCES;
  const bool folder = (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0;  // its attribute "read-only" means nothing
  return attributes != INVALID_FILE_ATTRIBUTES && (folder || (attributes & FILE_ATTRIBUTE_READONLY) == 0);
}

}  // namespace

// 255 units of UTF-16, which have at least as many bytes in UTF-8.
size_t longest_name(const std::string&) { return 255; }

bool flush(int descriptor) { return _commit(descriptor) == 0; }

void sync_folder(const std::string&) {}  // renames write through

void hand_on(int, const FileStatus&) {}  // a new file has the permissions of its folder

bool follow_links(const std::string& path, std::string* target) {
  *target = path;
  constexpr int kMostLinks = 40;
  for (int links = 0; links < kMostLinks; ++links) {
    const fs::path at(wide(*target));
    std::error_code error;
    if (!fs::is_symlink(fs::symlink_status(at, error))) return true;
    const fs::path next = fs::read_symlink(at, error);
    if (error) {
      errno = EACCES;
      return false;
    }
    const std::u8string name = (next.is_absolute() ? next : at.parent_path() / next).generic_u8string();
    target->assign(name.begin(), name.end());
  }
  errno = ELOOP;
  return false;
}

bool may_write(const std::string& path) { return writable(path); }
// Whether a folder takes a file only trying tells, which callers do next.
bool may_write_in(const std::string& folder) { return writable(folder); }
bool may_replace(const FileStatus&, const FileStatus&) { return true; }
bool is_mount_point(const std::string&) { return false; }

int create_scratch(const std::string& folder) {
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::string name = folder + "/.scratch-" + std::to_string(process_id()) + "-" + std::to_string(attempt);
    const int fd =
        open_handle(name, kAccess, CREATE_NEW, FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, _O_RDWR);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

int open_lock(const std::string& path, bool create) {
  return open_handle(path, kAccess, create ? OPEN_ALWAYS : OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, _O_RDWR);
}

bool try_lock(int descriptor, Lock lock) {
  OVERLAPPED at{};
  const DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (lock == Lock::kExclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0);
  if (LockFileEx(handle_of(descriptor), flags, 0, 1, 0, &at) != 0) return true;
  errno = GetLastError() == ERROR_LOCK_VIOLATION || GetLastError() == ERROR_IO_PENDING ? EWOULDBLOCK : EIO;
  return false;
}

// The shared lock goes on top, and then the exclusive one is released before it.
void share_lock(int descriptor) {
  OVERLAPPED at{};
  if (LockFileEx(handle_of(descriptor), LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at) != 0)
    UnlockFileEx(handle_of(descriptor), 0, 1, 0, &at);
}

// Windows calls handlers on a thread of their own, where everything may be called.
void remove_file_at_once(const char* path) { DeleteFileW(wide(path).c_str()); }

void remove_folder_at_once(const char* path) {
  std::error_code ignored;
  fs::remove_all(fs::path(wide(path)), ignored);
}

}  // namespace nwc::os
