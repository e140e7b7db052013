#include "trainer/data/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

Status failed(const std::string& folder, const char* what, int error) {
  return Status(StatusCode::kIo, str_cat("scratch file in ", folder, ": ", what, ": ", std::strerror(error)));
}

}  // namespace

Result<ScratchFile> ScratchFile::create(const std::string& folder) {
  std::string name = folder + "/.scratch-XXXXXX";
  const int fd = mkstemp(name.data());
  if (fd < 0) return failed(folder, "cannot be made", errno);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  unlink(name.c_str());
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
  if (fd_ >= 0) close(fd_);
}

Status ScratchFile::append(Bytes bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(size_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed(folder_, "cannot be written", n < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(n);
  }
  size_ += bytes.size();
  return {};
}

Status ScratchFile::read(uint64_t offset, MutableBytes out) const {
  assert(offset <= size_ && out.size() <= size_ - offset);
  for (size_t done = 0; done < out.size();) {
    const ssize_t n = pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed(folder_, "cannot be read", n < 0 ? errno : EIO);
    done += static_cast<size_t>(n);
  }
  return {};
}

}  // namespace nwc
