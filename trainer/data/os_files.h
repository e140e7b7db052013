// What the trainer asks of the operating system beyond the runtime's os.h: for outputs that appear whole, locks and
// scratch files. One of os_files_posix.cpp and os_files_windows.cpp is compiled; no other file of the trainer names a
// system's function or header (tests/layering.cmake).
//
// Paths are UTF-8. Where a call fails, errno says why, as POSIX has it.
#pragma once

#include <string>

#include "runtime/base/os.h"

namespace nwc::os {

/// Bytes of the longest name that the folder takes.
size_t longest_name(const std::string& folder);
/// Waits until the file is on its medium.
bool flush(int descriptor);
/// Makes a rename in the folder durable, as far as the file system can.
void sync_folder(const std::string& folder);
/// Gives a new file the owner and the permissions of the one that it will replace, as far as it may.
void hand_on(int descriptor, const FileStatus& replaced);

/// Follows links that lie at `path` itself to the last name, whether or not there is a file of that name. False with
/// errno set: a link that cannot be read, ELOOP.
bool follow_links(const std::string& path, std::string* target);
bool may_write(const std::string& path);
bool may_write_in(const std::string& folder);
/// Whether the user may replace a file of the folder: in /tmp and its like only its owner may.
bool may_replace(const FileStatus& folder, const FileStatus& file);
/// A file that something else is mounted over, as containers do it with single files, cannot be replaced by a rename.
bool is_mount_point(const std::string& path);

/// A file in the folder that is gone with the process, however that ends; -1 with errno set.
int create_scratch(const std::string& folder);

/// A file that is there for the sake of its lock, made where it is not there and `create` says so; -1 with errno set.
int open_lock(const std::string& path, bool create);
enum class Lock { kShared, kExclusive };
/// False with EWOULDBLOCK where another process has the lock.
bool try_lock(int descriptor, Lock lock);
/// Makes an exclusive lock that is held a shared one.
void share_lock(int descriptor);

/// These two may be called in a signal handler. A folder is removed with the files in it.
void remove_file_at_once(const char* path);
void remove_folder_at_once(const char* path);
/// A path for them has less than this many bytes.
inline constexpr size_t kMostPathBytes = 4096;

}  // namespace nwc::os
