// Values as the bytes of a message between ranks, which run the same program on processors of one kind.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/base/bytes.h"
#include "trainer/parallel/ranks.h"

namespace nwc {

template <typename T>
void put(ByteWriter* out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out->write(value);
}
template <typename T>
void put(ByteWriter* out, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  out->write(uint64_t{values.size()});
  out->write_array(std::span<const T>(values));
}
inline void put(ByteWriter* out, const std::string& text) {
  out->write(uint64_t{text.size()});
  out->write_string(text);
}

template <typename T>
Status get(ByteReader* in, T* value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return in->read(value, "value");
}
template <typename T>
Status get(ByteReader* in, std::vector<T>* values) {
  static_assert(std::is_trivially_copyable_v<T>);
  uint64_t count = 0;
  NWC_TRY(in->read(&count, "count"));
  return in->read_array(values, count, "values");
}
inline Status get(ByteReader* in, std::string* text) {
  uint64_t count = 0;
  NWC_TRY(in->read(&count, "length"));
  return in->read_string(text, count, "text");
}

/// All of these, one behind the other.
template <typename... T>
void put_all(ByteWriter* out, const T&... values) {
  (put(out, values), ...);
}
/// errors: kTruncated
template <typename... T>
Status get_all(ByteReader* in, T*... values) {
  Status status;
  ((status = status.ok() ? get(in, values) : std::move(status)), ...);
  return status;
}

/// Rank 0's values become those of all ranks. errors: those of Ranks
template <typename... T>
Status share(Ranks& ranks, T*... values) {
  if (ranks.alone()) return {};
  ByteWriter writer;
  if (ranks.first()) put_all(&writer, *values...);
  std::vector<uint8_t> bytes = writer.take();
  NWC_TRY(broadcast(ranks, &bytes));
  if (ranks.first()) return {};
  ByteReader reader(bytes);
  NWC_TRY(get_all(&reader, values...));
  return reader.expect_end("message");
}

}  // namespace nwc
