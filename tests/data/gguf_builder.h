// GGUF files as byte strings, right or wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"

namespace nwc::test {

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;  ///< of the layout; write the key too if it is not 32
  std::string trailing;

  // clang-format off
  GgufBuilder& u32(const std::string& key, uint32_t v) { start(key, 4); keys_.write(v); return *this; }
  GgufBuilder& u64(const std::string& key, uint64_t v) { start(key, 10); keys_.write(v); return *this; }
  GgufBuilder& i32(const std::string& key, int32_t v) { start(key, 5); keys_.write(v); return *this; }
  GgufBuilder& f32(const std::string& key, float v) { start(key, 6); keys_.write(v); return *this; }
  GgufBuilder& boolean(const std::string& key, bool v) { start(key, 7); keys_.write<uint8_t>(v); return *this; }
  GgufBuilder& string(const std::string& key, const std::string& v) { start(key, 8); write_string(&keys_, v); return *this; }
  // clang-format on
  GgufBuilder& strings(const std::string& key, const std::vector<std::string>& v) {
    start_array(key, 8, v.size());
    for (const std::string& s : v) write_string(&keys_, s);
    return *this;
  }
  GgufBuilder& floats(const std::string& key, const std::vector<float>& v) {
    start_array(key, 6, v.size());
    keys_.write_array<float>(v);
    return *this;
  }
  GgufBuilder& integers(const std::string& key, const std::vector<int32_t>& v) {
    start_array(key, 5, v.size());
    keys_.write_array<int32_t>(v);
    return *this;
  }
  /// A key with any type and any bytes.
  GgufBuilder& raw(const std::string& key, uint32_t type, const std::string& bytes) {
    start(key, type);
    keys_.write_string(bytes);
    return *this;
  }
  /// dims as in the file, innermost first. Placed behind the tensors before it.
  GgufBuilder& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::string& data) {
    return tensor_at(name, dims, type, data_.size(), data);
  }
  GgufBuilder& tensor_at(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                         const std::string& data) {
    write_string(&directory_, name);
    directory_.write(static_cast<uint32_t>(dims.size()));
    directory_.write_array<uint64_t>(dims);
    directory_.write(type);
    directory_.write(offset);
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    ++num_tensors_;
    return *this;
  }
  GgufBuilder& f32_tensor(const std::string& name, const std::vector<uint64_t>& dims, float value = 0.5f) {
    uint64_t count = 1;
    for (uint64_t dim : dims) count *= dim;
    const std::vector<float> values(count, value);
    return tensor(name, dims, 0, std::string(reinterpret_cast<const char*>(values.data()), count * 4));
  }

  /// header_bytes receives the size of everything before the padding and the data.
  std::string build(size_t* header_bytes = nullptr) const {
    ByteWriter out;
    out.write_string("GGUF");
    out.write(version);
    out.write(num_tensors_);
    out.write(num_keys_);
    out.write_bytes(keys_.bytes());
    out.write_bytes(directory_.bytes());
    if (header_bytes != nullptr) *header_bytes = out.size();
    while (out.size() % alignment != 0) out.write<uint8_t>(0);
    out.write_string(data_);
    out.write_string(trailing);
    return {reinterpret_cast<const char*>(out.bytes().data()), out.size()};
  }

 private:
  static void write_string(ByteWriter* out, const std::string& s) {
    out->write<uint64_t>(s.size());
    out->write_string(s);
  }
  void start(const std::string& key, uint32_t type) {
    write_string(&keys_, key);
    keys_.write(type);
    ++num_keys_;
  }
  void start_array(const std::string& key, uint32_t element_type, uint64_t count) {
    start(key, 9);
    keys_.write(element_type);
    keys_.write(count);
  }

  ByteWriter keys_, directory_;
  std::string data_;
  uint64_t num_keys_ = 0;
  uint64_t num_tensors_ = 0;
};

}  // namespace nwc::test
