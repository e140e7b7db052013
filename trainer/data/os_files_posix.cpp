// Outputs, locks and scratch files on Linux and macOS.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#include "trainer/data/os_files.h"

namespace nwc::os {
namespace {

constexpr int kMostLinks = 40;  // as Linux follows

// Not opendir(), which allocates: the signal may have come in the middle of an allocation. On macOS there is nothing
// else, and a signal at such a moment leaves a folder behind.
#if defined(__linux__)
void remove_files_in(const char* folder) {
  const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  alignas(dirent64) char entries[4096];
  for (ssize_t size = 0; (size = getdents64(fd, entries, sizeof entries)) > 0;) {
    for (ssize_t at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries + at);
      unlinkat(fd, entry->d_name, 0);  // fails for "." and ".."
      at += entry->d_reclen;
    }
  }
  close(fd);
}
#else
void remove_files_in(const char*) {}
#endif

}  // namespace

size_t longest_name(const std::string& folder) {
  const long known = pathconf(folder.c_str(), _PC_NAME_MAX);
  return known > 0 ? static_cast<size_t>(known) : NAME_MAX;
}

bool flush(int descriptor) { return fsync(descriptor) == 0; }

// Some file systems cannot sync a directory; that is not an error.
void sync_folder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);
  close(fd);
}

// The owner first: it resets the others.
void hand_on(int descriptor, const FileStatus& replaced) {
  (void)!fchown(descriptor, replaced.owner, replaced.group);
  (void)!fchmod(descriptor, replaced.mode & 0777);
}

bool follow_links(const std::string& path, std::string* target) {
  *target = path;
  for (int links = 0; links < kMostLinks; ++links) {
    char text[PATH_MAX];
    const ssize_t length = readlink(target->c_str(), text, sizeof text);
    if (length < 0) return errno == EINVAL || errno == ENOENT;  // it is no link, or there is nothing
    const std::string next(text, static_cast<size_t>(length));
    *target = next.starts_with('/') ? next : target->substr(0, name_begin(*target)) + next;
  }
  errno = ELOOP;
  return false;
}

bool may_write(const std::string& path) { return access(path.c_str(), W_OK) == 0; }

// access(), not the mode: it knows of read-only file systems too.
bool may_write_in(const std::string& folder) { return access(folder.c_str(), W_OK | X_OK) == 0; }

bool may_replace(const FileStatus& folder, const FileStatus& file) {
  const uid_t user = geteuid();
  return (folder.mode & S_ISVTX) == 0 || user == 0 || user == file.owner || user == folder.owner;
}

bool is_mount_point([[maybe_unused]] const std::string& path) {
#ifdef STATX_ATTR_MOUNT_ROOT  // Linux 5.8
  struct statx info;
  return statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &info) == 0 && (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
#else
  return false;
#endif
}

int create_scratch(const std::string& folder) {
  std::string name = folder + "/.scratch-XXXXXX";
  const int fd = mkstemp(name.data());
  if (fd < 0) return fd;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  unlink(name.c_str());
  return fd;
}

int open_lock(const std::string& path, bool create) {
  return open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0666);
}

bool try_lock(int descriptor, Lock lock) {
  for (;;) {
    if (flock(descriptor, (lock == Lock::kShared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return true;
    if (errno != EINTR) return false;
  }
}

void share_lock(int descriptor) { (void)flock(descriptor, LOCK_SH); }

void remove_file_at_once(const char* path) { unlink(path); }

void remove_folder_at_once(const char* path) {
  // Another thread may be adding files, and some file systems pass over names while others are removed.
  constexpr int kPasses = 100;
  for (int pass = 0; pass < kPasses && rmdir(path) != 0 && (errno == ENOTEMPTY || errno == EEXIST); ++pass) {
    remove_files_in(path);
  }
}

}  // namespace nwc::os
