#include "trainer/data/scratch_file.h"

#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/str_cat.h"
#include "trainer/data/os_files.h"

namespace nwc {
namespace {

Status failed(const std::string& folder, const char* what, int error) {
  return Status(StatusCode::kIo, str_cat("scratch file in ", folder, ": ", what, ": ", std::strerror(error)));
}

}  // namespace

Result<ScratchFile> ScratchFile::create(const std::string& folder) {
  const int fd = os::create_scratch(folder);
  if (fd < 0) return failed(folder, "cannot be made", errno);
  return ScratchFile(folder, fd);
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : folder_(std::move(other.folder_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

ScratchFile& ScratchFile::operator=(ScratchFile&& other) noexcept {
  std::swap(folder_, other.folder_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

ScratchFile::~ScratchFile() {
  if (fd_ >= 0) os::close_file(fd_);
}

Status ScratchFile::append(Bytes bytes) {
  if (!os::write_at(fd_, size_, bytes.data(), bytes.size())) return failed(folder_, "cannot be written", errno);
  size_ += bytes.size();
  return {};
}

Status ScratchFile::read(uint64_t offset, MutableBytes out) const {
  assert(offset <= size_ && out.size() <= size_ - offset);
  for (size_t done = 0; done < out.size();) {
    const int64_t n = os::read_at(fd_, offset + done, out.data() + done, out.size() - done);
    if (n <= 0) return failed(folder_, "cannot be read", n < 0 ? errno : EIO);
    done += static_cast<size_t>(n);
  }
  return {};
}

}  // namespace nwc
