// A file that appears under its name complete or not at all.
#pragma once

#include <string>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "trainer/data/temporaries.h"

namespace nwc {

/// Makes a rename within the folder of `path` durable, as far as the file system can.
void sync_directory_of(const std::string& path);

/// Writes to a temporary name in the same folder; commit() makes it durable and renames it. Without a commit the
/// temporary is removed on destruction. A symbolic link at `path` stays, and its target is written; a file that is
/// replaced hands on its owner and permissions. errors: kIo, with path and reason; create(): those of resolve_output
/// too
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
  /// Where it is until commit().
  const std::string& temporary() const { return temporary_; }
  /// Flushes to the medium, renames over `path`. Nothing may be written afterwards.
  Status commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  void discard();

  std::string path_;  ///< links followed
  std::string temporary_;
  int fd_ = -1;
  Temporary known_;
  uint64_t size_ = 0;
};

/// `path` with a suffix of this process and `attempt`; the file's own name is cut where the file system does not take
/// so long a name.
std::string temporary_name(const std::string& path, int attempt);

}  // namespace nwc
