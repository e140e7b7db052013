// Writes GGUF files of version 3, which GgufFile reads.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "trainer/data/gguf_dequant.h"
#include "trainer/data/safetensors.h"

namespace nwc {

/// Typed metadata in the order in which they are added. The caller sees to it that keys are unique.
class GgufMetadata {
 public:
  void add_u32(const std::string& key, uint32_t value);
  void add_f32(const std::string& key, float value);
  void add_bool(const std::string& key, bool value);
  void add_string(const std::string& key, const std::string& value);
  void add_bools(const std::string& key, const std::vector<bool>& values);
  void add_strings(const std::string& key, std::span<const std::string> values);
  void add_i32s(const std::string& key, std::span<const int32_t> values);
  void add_f32s(const std::string& key, std::span<const float> values);

  /// A pair of GgufFile::raw_metadata(), as it is.
  void add_raw(Bytes pair);
  /// Sets the alignment of the tensors' data, a power of two. A value other than 32 needs the key "general.alignment",
  /// too.
  void set_alignment(uint32_t alignment) { alignment_ = alignment; }

  uint32_t alignment() const { return alignment_; }
  uint64_t num_keys() const { return num_keys_; }
  /// The key-value pairs as in the file, without their count.
  const std::vector<uint8_t>& bytes() const { return out_.bytes(); }

 private:
  void start(const std::string& key, uint32_t type);
  void start_array(const std::string& key, uint32_t type, size_t count);

  ByteWriter out_;
  uint64_t num_keys_ = 0;
  uint32_t alignment_ = 32;
};

/// A tensor that is to be written.
struct GgufTensorSpec {
  std::string name;
  const GgmlType* type = nullptr;  ///< quantized: rows are whole blocks
  std::vector<uint64_t> shape;     ///< row-major, outermost first
};

/// The file's bytes before the tensors' data. sizes: receives the bytes of each tensor.
/// errors: kInvalidArgument (no type, rows that are no whole blocks), kLimit (tensors that GGUF cannot hold)
Result<std::vector<uint8_t>> make_gguf_header(const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors,
                                              std::vector<uint64_t>* sizes);

/// Writes tensors in the given order, one in memory at a time. The file appears under its name only when it is
/// complete. The same input gives the same bytes.
/// errors: the producer's; kInvalidArgument (more than 4 dimensions, rows that are no whole blocks, wrong number of
///         bytes), kIo
Status write_gguf(const std::string& path, const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors,
                  const TensorProducer& produce);

}  // namespace nwc
