#include "trainer/data/gguf_write.h"

#include "trainer/data/atomic_file.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr size_t kMaxDims = 4;

// Numbers of the value types.
enum ValueType : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

uint64_t padding(uint64_t size, uint64_t alignment) { return (alignment - size % alignment) % alignment; }

void write_string(ByteWriter* out, const std::string& text) {
  out->write<uint64_t>(text.size());
  out->write_string(text);
}

/// Checks the tensor, and returns its bytes.
Result<uint64_t> stored_size(const GgufTensorSpec& tensor) {
  if (tensor.shape.size() > kMaxDims) {
    return invalid_argument(quote_tensor(tensor.name) + " has more than 4 dimensions; GGUF cannot hold it");
  }
  if (tensor.type == nullptr) return invalid_argument(quote_tensor(tensor.name) + ": GGUF has no type for it");
  const GgmlType& type = *tensor.type;
  NWC_ASSIGN_OR_RETURN(const uint64_t size, check_tensor(tensor.name, tensor.shape, type.dtype));
  if (!type.quantized()) return size;
  if (tensor.shape.empty() || tensor.shape.back() % type.block_elements != 0) {
    return invalid_argument(quote_tensor(tensor.name) + ": rows are no multiples of " +
                            std::to_string(type.block_elements) + ", the block of " + type.name);
  }
  return size / sizeof(float) / type.block_elements * type.block_bytes;
}

}  // namespace

Result<std::vector<uint8_t>> make_gguf_header(const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors,
                                              std::vector<uint64_t>* sizes) {
  ByteWriter out;
  out.write_string("GGUF");
  out.write<uint32_t>(3);
  out.write<uint64_t>(tensors.size());
  out.write(metadata.num_keys());
  out.write_bytes(metadata.bytes());
  uint64_t offset = 0;  // cannot overflow: at most 2^40 bytes a tensor
  for (const GgufTensorSpec& tensor : tensors) {
    NWC_ASSIGN_OR_RETURN(const uint64_t size, stored_size(tensor));
    write_string(&out, tensor.name);
    out.write(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t dim = tensor.shape.size(); dim-- > 0;) out.write<uint64_t>(tensor.shape[dim]);  // innermost first
    out.write(tensor.type->id);
    out.write(offset);
    offset += size + padding(size, metadata.alignment());
    sizes->push_back(size);
  }
  for (uint64_t i = padding(out.size(), metadata.alignment()); i > 0; --i) out.write<uint8_t>(0);
  return out.take();
}

void GgufMetadata::start(const std::string& key, uint32_t type) {
  write_string(&out_, key);
  out_.write(type);
  ++num_keys_;
}

void GgufMetadata::start_array(const std::string& key, uint32_t type, size_t count) {
  start(key, kArray);
  out_.write(type);
  out_.write<uint64_t>(count);
}

void GgufMetadata::add_raw(Bytes pair) {
  out_.write_bytes(pair);
  ++num_keys_;
}

void GgufMetadata::add_u32(const std::string& key, uint32_t value) {
  start(key, kU32);
  out_.write(value);
}

void GgufMetadata::add_f32(const std::string& key, float value) {
  start(key, kF32);
  out_.write(value);
}

void GgufMetadata::add_bool(const std::string& key, bool value) {
  start(key, kBool);
  out_.write<uint8_t>(value ? 1 : 0);
}

void GgufMetadata::add_string(const std::string& key, const std::string& value) {
  start(key, kString);
  write_string(&out_, value);
}

void GgufMetadata::add_bools(const std::string& key, const std::vector<bool>& values) {
  start_array(key, kBool, values.size());
  for (const bool value : values) out_.write<uint8_t>(value ? 1 : 0);
}

void GgufMetadata::add_strings(const std::string& key, std::span<const std::string> values) {
  start_array(key, kString, values.size());
  for (const std::string& value : values) write_string(&out_, value);
}

void GgufMetadata::add_i32s(const std::string& key, std::span<const int32_t> values) {
  start_array(key, kI32, values.size());
  out_.write_array(values);
}

void GgufMetadata::add_f32s(const std::string& key, std::span<const float> values) {
  start_array(key, kF32, values.size());
  out_.write_array(values);
}

Status write_gguf(const std::string& path, const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors,
                  const TensorProducer& produce) {
  std::vector<uint64_t> sizes;
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> header, make_gguf_header(metadata, tensors, &sizes));
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  NWC_TRY(file.write(header));
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    NWC_TRY(produce(i, &bytes).with_context(quote_tensor(tensors[i].name)));
    if (bytes.size() != sizes[i]) {
      return invalid_argument(quote_tensor(tensors[i].name) + " was given " + std::to_string(bytes.size()) +
                              " bytes instead of " + std::to_string(sizes[i]));
    }
    bytes.resize(bytes.size() + padding(bytes.size(), metadata.alignment()), 0);
    NWC_TRY(file.write(bytes));
  }
  return file.commit();
}

}  // namespace nwc
