#include "runtime/base/reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/os.h"
#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

bool in_bounds(uint64_t offset, uint64_t size, uint64_t total) { return offset <= total && size <= total - offset; }

Status out_of_bounds(uint64_t offset, uint64_t size, uint64_t total) {
  return truncated(
      str_cat("bytes ", offset, " to ", offset, "+", size, " are beyond the end of the input (", total, " bytes)"));
}

class MemoryReader : public Reader {
 public:
  explicit MemoryReader(Bytes bytes) : bytes_(bytes) {}
  explicit MemoryReader(std::vector<uint8_t> owned) : owned_(std::move(owned)), bytes_(owned_) {}
  uint64_t size() const override { return bytes_.size(); }
  Status read(uint64_t offset, MutableBytes out) const override {
    if (!in_bounds(offset, out.size(), bytes_.size())) return out_of_bounds(offset, out.size(), bytes_.size());
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  const uint8_t* view(uint64_t offset, uint64_t size) const override {
    return in_bounds(offset, size, bytes_.size()) ? bytes_.data() + offset : nullptr;
  }

 private:
  std::vector<uint8_t> owned_;
  Bytes bytes_;
};

// Reads at offsets and maps nothing: where another program cuts the file short, a read says so, and a mapped page would
// end the process (SIGBUS). What that costs stands in doc/architecture.md, "Memory".
class FileReader : public Reader {
 public:
  /// The `size` bytes from `begin` on.
  FileReader(int fd, uint64_t begin, uint64_t size) : fd_(fd), begin_(begin), size_(size) {}
  ~FileReader() override { os::close_file(fd_); }
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  uint64_t size() const override { return size_; }
  Status read(uint64_t offset, MutableBytes out) const override {
    if (!in_bounds(offset, out.size(), size_)) return out_of_bounds(offset, out.size(), size_);
    size_t done = 0;
    while (done < out.size()) {
      const int64_t n = os::read_at(fd_, begin_ + offset + done, out.data() + done, out.size() - done);
      if (n < 0) return io_error(str_cat("read at offset ", offset + done, ": ", std::strerror(errno)));
      if (n == 0)
        return truncated(str_cat("the file has become shorter since it was opened: it had ", size_,
                                 " bytes and ends before offset ", offset + done + 1, " now"));
      done += static_cast<size_t>(n);
    }
    return {};
  }
  void will_read(uint64_t offset, uint64_t size) const override { advise(offset, size, os::will_read); }
  void forget(uint64_t offset, uint64_t size) const override { advise(offset, size, os::forget); }

 private:
  // A hint: whatever comes of it, reads say what is wrong.
  template <typename Advice>
  void advise(uint64_t offset, uint64_t size, Advice&& advice) const {
    if (offset < size_ && size != 0) advice(fd_, begin_ + offset, std::min(size, size_ - offset));
  }

  int fd_;
  uint64_t begin_, size_;
};

class CallbackReader : public Reader {
 public:
  CallbackReader(uint64_t size, std::function<bool(uint64_t, void*, size_t)> read)
      : size_(size), read_(std::move(read)) {}
  uint64_t size() const override { return size_; }
  Status read(uint64_t offset, MutableBytes out) const override {
    if (!in_bounds(offset, out.size(), size_)) return out_of_bounds(offset, out.size(), size_);
    if (out.empty() || read_(offset, out.data(), out.size())) return {};
    return io_error(str_cat("the read callback failed at offset ", offset));
  }

 private:
  uint64_t size_;
  std::function<bool(uint64_t, void*, size_t)> read_;
};

}  // namespace

const uint8_t* Reader::view(uint64_t, uint64_t) const { return nullptr; }
void Reader::will_read(uint64_t, uint64_t) const {}
void Reader::forget(uint64_t, uint64_t) const {}

std::unique_ptr<Reader> make_memory_reader(Bytes bytes) { return std::make_unique<MemoryReader>(bytes); }

std::unique_ptr<Reader> make_owned_reader(std::vector<uint8_t> bytes) {
  return std::make_unique<MemoryReader>(std::move(bytes));
}

Result<std::unique_ptr<Reader>> open_file_reader(const std::string& path) {
  const int fd = os::open_to_read(path);
  const int failure = errno;
  os::FileStatus info;
  const bool known = fd >= 0 ? os::status_of(fd, &info) : os::status_of(path, &info);
  // Also where it could not be opened: what the system says of a socket would surprise.
  if (known && info.kind != os::FileKind::kPlain) {
    if (fd >= 0) os::close_file(fd);
    return io_error(str_cat(path, ": is ", os::kind_name(info.kind), ", but a plain file is needed"));
  }
  if (fd < 0) return io_error(str_cat(path, ": ", std::strerror(failure)));
  if (!known) {
    const Status status = io_error(str_cat(path, ": ", std::strerror(errno)));
    os::close_file(fd);
    return status;
  }
  return std::unique_ptr<Reader>(std::make_unique<FileReader>(fd, 0, info.size));
}

Result<std::unique_ptr<Reader>> open_descriptor_reader(int fd, uint64_t offset, uint64_t size) {
  os::FileStatus info;
  if (fd < 0) return invalid_argument(str_cat(fd, " is no file descriptor"));
  if (!os::status_of(fd, &info)) return io_error(str_cat("file descriptor ", fd, ": ", std::strerror(errno)));
  if (info.kind != os::FileKind::kPlain)
    return io_error(str_cat("file descriptor ", fd, ": is ", os::kind_name(info.kind), ", but a plain file is needed"));
  if (!in_bounds(offset, size, info.size))
    return invalid_argument(
        str_cat("bytes ", offset, " to ", offset, "+", size, " of a file of ", info.size, " bytes"));
  const int own = os::duplicate(fd);
  if (own < 0) return io_error(str_cat("file descriptor ", fd, ": ", std::strerror(errno)));
  return std::unique_ptr<Reader>(std::make_unique<FileReader>(own, offset, size == 0 ? info.size - offset : size));
}

std::unique_ptr<Reader> make_callback_reader(uint64_t size, std::function<bool(uint64_t, void*, size_t)> read) {
  return std::make_unique<CallbackReader>(size, std::move(read));
}

Result<Bytes> read_range(const Reader& reader, uint64_t offset, uint64_t size, std::vector<uint8_t>* storage) {
  if (const uint8_t* p = reader.view(offset, size)) return Bytes(p, static_cast<size_t>(size));
  if (!in_bounds(offset, size, reader.size())) return out_of_bounds(offset, size, reader.size());
  storage->resize(static_cast<size_t>(size));
  NWC_TRY(reader.read(offset, *storage));
  return Bytes(*storage);
}

}  // namespace nwc
