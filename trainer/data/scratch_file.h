// A file without a name, for what does not fit memory. It is gone with the process, however that ends.
#pragma once

#include <string>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"

namespace nwc {

class ScratchFile {
 public:
  /// errors: kIo, with the folder and the reason
  static Result<ScratchFile> create(const std::string& folder);
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) noexcept;
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile();

  /// Bytes written so far. After an error it is what it was, and the next append() writes over what failed.
  uint64_t size() const { return size_; }
  /// errors: kIo
  Status append(Bytes bytes);
  /// offset + out.size() <= size(). Thread-safe. errors: kIo
  Status read(uint64_t offset, MutableBytes out) const;

 private:
  ScratchFile(std::string folder, int fd) : folder_(std::move(folder)), fd_(fd) {}

  std::string folder_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

}  // namespace nwc
