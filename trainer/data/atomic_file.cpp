#include "trainer/data/atomic_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "trainer/data/os_files.h"
#include "trainer/data/output_path.h"

namespace nwc {
namespace {

Status os_error(const std::string& path, const char* action) {
  return io_error(path + ": " + action + ": " + std::strerror(errno));
}

}  // namespace

std::string temporary_name(const std::string& path, int attempt) {
  const std::string suffix = ".partial-" + std::to_string(os::process_id()) + "-" + std::to_string(attempt);
  const size_t begin = os::name_begin(path);
  const size_t longest = os::longest_name(os::folder_of(path));
  if (path.size() - begin + suffix.size() <= longest || suffix.size() >= longest) return path + suffix;
  size_t end = begin + longest - suffix.size();
  // Not within a character: some file systems take UTF-8 only.
  while (end > begin && (static_cast<unsigned char>(path[end]) & 0xc0) == 0x80) --end;
  return path.substr(0, end) + suffix;
}

void sync_directory_of(const std::string& path) { os::sync_folder(os::folder_of(path)); }

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(std::string target, resolve_output(path));
  // Not mkstemp: it would leave the final file readable by its owner alone.
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::string temporary = temporary_name(target, attempt);
    const int fd = os::create_new(temporary);
    if (fd < 0 && errno == EEXIST) continue;
    if (fd < 0) return os_error(path, "no file can be made in its folder");
    os::FileStatus old;
    // Where owner and permissions cannot be handed on, the file does without.
    if (os::status_of(target, &old)) os::hand_on(fd, old);
    return AtomicFile(std::move(target), std::move(temporary), fd);
  }
  return io_error(path + ": too many leftover .partial files beside it; remove them");
}

AtomicFile::AtomicFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd), known_(temporary_, Temporary::kFile) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)),
      known_(std::move(other.known_)),
      size_(other.size_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_ = std::move(other.temporary_);
    fd_ = std::exchange(other.fd_, -1);
    known_ = std::move(other.known_);
    size_ = other.size_;
  }
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (fd_ < 0) return;
  os::close_file(std::exchange(fd_, -1));
  os::remove_file(temporary_);
  known_.forget();
}

Status AtomicFile::write(Bytes bytes) {
  const uint64_t at = size_;
  size_ += bytes.size();
  return overwrite(at, bytes);
}

Status AtomicFile::overwrite(uint64_t offset, Bytes bytes) {
  assert(fd_ >= 0 && offset + bytes.size() <= size_);
  if (!os::write_at(fd_, offset, bytes.data(), bytes.size())) return os_error(path_, "write");
  return {};
}

Status AtomicFile::commit() {
  assert(fd_ >= 0);
  Status status;
  if (!os::flush(fd_)) {
    status = os_error(path_, "fsync");
  } else if (!os::rename_over(temporary_, path_)) {
    status = os_error(path_, "rename");
  }
  if (!status.ok()) {
    discard();
    return status;
  }
  known_.forget();
  os::close_file(std::exchange(fd_, -1));
  sync_directory_of(path_);
  return {};
}

}  // namespace nwc
