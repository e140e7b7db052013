// Bounds-checked little-endian reading and writing of byte strings.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

static_assert(std::endian::native == std::endian::little, "nwc needs a little-endian machine");

using Bytes = std::span<const uint8_t>;
using MutableBytes = std::span<uint8_t>;

/// Unaligned little-endian load; the caller has checked the bounds.
template <typename T>
T load_le(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename T>
void store_le(uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

/// A cursor over untrusted bytes. Every error names the field and its offset from the start of the file.
class ByteReader {
 public:
  explicit ByteReader(Bytes bytes, uint64_t file_offset = 0) : bytes_(bytes), file_offset_(file_offset) {}

  /// Absolute offset of the next byte, for messages.
  uint64_t offset() const { return file_offset_ + pos_; }
  size_t remaining() const { return bytes_.size() - pos_; }

  template <typename T>
  Status read(T* out, const char* field) {
    if (remaining() < sizeof(T)) return too_short(field, sizeof(T));
    *out = load_le<T>(bytes_.data() + pos_);
    pos_ += sizeof(T);
    return {};
  }
  /// `count` elements of T into out; size checked before anything is allocated.
  template <typename T>
  Status read_array(std::vector<T>* out, uint64_t count, const char* field) {
    if (count > remaining() / sizeof(T)) return too_short(field, count);
    out->resize(static_cast<size_t>(count));
    if (count != 0) std::memcpy(out->data(), bytes_.data() + pos_, static_cast<size_t>(count) * sizeof(T));
    pos_ += static_cast<size_t>(count) * sizeof(T);
    return {};
  }
  Status read_bytes(Bytes* out, uint64_t count, const char* field) {
    if (count > remaining()) return too_short(field, count);
    *out = bytes_.subspan(pos_, static_cast<size_t>(count));
    pos_ += static_cast<size_t>(count);
    return {};
  }
  Status read_string(std::string* out, uint64_t count, const char* field) {
    Bytes b;
    NWC_TRY(read_bytes(&b, count, field));
    out->assign(reinterpret_cast<const char*>(b.data()), b.size());
    return {};
  }
  /// Trailing bytes are an error.
  Status expect_end(const char* what) const {
    if (remaining() == 0) return {};
    return corrupt(str_cat(what, ": ", remaining(), " unexpected bytes at offset ", offset()));
  }

 private:
  Status too_short(const char* field, uint64_t need) const {
    return truncated(
        str_cat("field ", field, " at offset ", offset(), " needs ", need, " more, ", remaining(), " bytes left"));
  }

  Bytes bytes_;
  uint64_t file_offset_;
  size_t pos_ = 0;
};

class ByteWriter {
 public:
  template <typename T>
  void write(T v) {
    uint8_t raw[sizeof(T)];
    store_le(raw, v);
    bytes_.insert(bytes_.end(), raw, raw + sizeof(T));
  }
  void write_bytes(Bytes b) { bytes_.insert(bytes_.end(), b.begin(), b.end()); }
  void write_string(std::string_view s) { write_bytes({reinterpret_cast<const uint8_t*>(s.data()), s.size()}); }
  template <typename T>
  void write_array(std::span<const T> v) {
    write_bytes({reinterpret_cast<const uint8_t*>(v.data()), v.size_bytes()});
  }
  size_t size() const { return bytes_.size(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace nwc
