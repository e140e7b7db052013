// Sources of a file's bytes: memory, a file, or the caller's callbacks.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/base/bytes.h"

namespace nwc {

/// Random-access source. Thread-safe: read and view may be called from several threads at once.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual uint64_t size() const = 0;
  /// Copies out.size() bytes from offset. Errors: kTruncated (range beyond the end, which may have moved since a file
  /// was opened), kIo.
  virtual Status read(uint64_t offset, MutableBytes out) const = 0;
  /// Pointer to the range without copying, or nullptr where the source cannot (or the range is out of bounds).
  /// Valid as long as the reader. The bytes may change under us if their owner breaks his promise: decoders stay in
  /// bounds whatever they hold.
  virtual const uint8_t* view(uint64_t offset, uint64_t size) const;
  /// The range will be read soon: where the source is slow, it may begin to fetch it. Any range; returns at once.
  virtual void will_read(uint64_t offset, uint64_t size) const;
  /// What the system keeps of the range in its page cache is of no use here: whoever measures how fast the source is
  /// asks for that. Any range; a hint.
  virtual void forget(uint64_t offset, uint64_t size) const;
};

/// Does not own the bytes.
std::unique_ptr<Reader> make_memory_reader(Bytes bytes);
/// Owns the bytes.
std::unique_ptr<Reader> make_owned_reader(std::vector<uint8_t> bytes);
/// Reads the file where it is asked to, and maps nothing. Errors: kIo, with path and reason.
Result<std::unique_ptr<Reader>> open_file_reader(const std::string& path);
/// `size` bytes from `offset` of an open file, or, for 0, all from there on. The descriptor is duplicated. errors: kIo,
/// kInvalidArgument (no descriptor, a range beyond the end)
Result<std::unique_ptr<Reader>> open_descriptor_reader(int fd, uint64_t offset, uint64_t size);
/// `read` returns false on failure; it may be called from several threads.
std::unique_ptr<Reader> make_callback_reader(uint64_t size,
                                             std::function<bool(uint64_t offset, void* out, size_t size)> read);

/// The range as a view where the source allows it, else copied into *storage.
Result<Bytes> read_range(const Reader& reader, uint64_t offset, uint64_t size, std::vector<uint8_t>* storage);

}  // namespace nwc
