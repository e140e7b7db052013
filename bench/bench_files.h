// Files that benchmarks make and read.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "bench/bench_report.h"
#include "runtime/base/bytes.h"

namespace nwc::bench {

/// A file that is gone when the program is.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& folder, const std::string& name)
      : path_(folder + "/nwc-bench-" + std::to_string(getpid()) + "-" + name) {}
  ~TemporaryFile() { unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  void append(Bytes bytes) {
    const int f = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (f < 0 || write_all(f, bytes) != 0 || fsync(f) != 0 || close(f) != 0) check(io_error(path_ + ": cannot write"));
  }

 private:
  static int write_all(int f, Bytes bytes) {
    while (!bytes.empty()) {
      const ssize_t n = write(f, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30));
      if (n <= 0) return -1;
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return 0;
  }
  const std::string path_;
};

class OpenFile {
 public:
  explicit OpenFile(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) check(io_error(path + ": cannot be opened"));
  }
  ~OpenFile() { close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int get() const { return fd_; }
  /// Asks the system to forget what it holds of a part of the file in memory (0: to the end), but for mapped pages.
  void forget(off_t begin = 0, off_t size = 0) const { posix_fadvise(fd_, begin, size, POSIX_FADV_DONTNEED); }
  size_t size() const { return static_cast<size_t>(lseek(fd_, 0, SEEK_END)); }

 private:
  const int fd_;
};

}  // namespace nwc::bench
