// A file that appears under its name complete or not at all.
#pragma once

#include <string>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"

namespace nwc {

/// Writes to a temporary name in the same directory; commit() makes it durable and renames it. Without a commit the
/// temporary is removed on destruction. errors: kIo, with path and reason
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Appends.
  Status write(Bytes bytes);
  /// Replaces bytes written before; the range ends at or before the bytes written so far.
  Status overwrite(uint64_t offset, Bytes bytes);
  uint64_t size() const { return size_; }
  /// Flushes to the medium, renames over `path`. Nothing may be written afterwards.
  Status commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  void discard();

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

}  // namespace nwc
