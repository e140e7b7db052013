// A folder that appears under its name complete or not at all.
#pragma once

#include <string>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "trainer/data/temporaries.h"

namespace nwc {

/// Files are written to a folder with a temporary name beside `path`; commit() renames it. Without a commit it is
/// removed on destruction. What exists under `path` is never replaced, except an empty folder; a link to one is
/// followed. errors: kInvalidArgument (`path` is there and not an empty folder), kIo, with path and reason
class AtomicFolder {
 public:
  static Result<AtomicFolder> create(const std::string& path);
  /// What create() says of `path`, before the work; what it makes is removed.
  static Status check(const std::string& path);
  AtomicFolder(AtomicFolder&& other) noexcept;
  AtomicFolder& operator=(AtomicFolder&&) = delete;
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  /// Where to write a file until commit(). name: a plain file name.
  std::string file(const std::string& name) const { return temporary_ + "/" + name; }
  Status write(const std::string& name, Bytes bytes) const;
  /// Nothing may be written afterwards.
  Status commit();

 private:
  AtomicFolder(std::string path, std::string temporary);

  std::string path_;
  std::string temporary_;  ///< empty after commit()
  Temporary known_;
};

}  // namespace nwc
