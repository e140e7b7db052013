#include "trainer/data/gguf_file.h"

#include <algorithm>
#include <unordered_set>

#include "runtime/base/checked.h"
#include "runtime/format/constants.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr uint64_t kMaxHeaderBytes = 256u << 20;
constexpr uint64_t kFirstHeaderBytes = 1u << 20;
constexpr uint64_t kMaxKeys = 65536;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxGgufDims = 4;
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1u << 20;
constexpr int kMaxArrayDepth = 4;

enum ValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kNumValueTypes,
};

// Bytes of a scalar; 0 for strings and arrays.
constexpr uint8_t kScalarBytes[kNumValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

Status read_gguf_string(ByteReader* in, std::string* out, uint64_t max_bytes, const char* field) {
  uint64_t length = 0;
  NWC_TRY(in->read(&length, field));
  if (length > max_bytes) {
    return limit_error(std::string(field) + " at offset " + std::to_string(in->offset()) + " has " +
                       std::to_string(length) + " bytes");
  }
  return in->read_string(out, length, field);
}

// Moves behind `count` elements.
Status skip_elements(ByteReader* in, uint32_t type, uint64_t count, int depth) {
  Bytes ignored;
  if (type >= kNumValueTypes) {
    return corrupt("unknown metadata type " + std::to_string(type) + " at offset " + std::to_string(in->offset()));
  }
  if (kScalarBytes[type] != 0) {
    uint64_t bytes = 0;
    if (!checked_mul(count, kScalarBytes[type], &bytes)) return corrupt("a metadata array's length overflows");
    return in->read_bytes(&ignored, bytes, "metadata value");
  }
  if (type == kArray && depth == kMaxArrayDepth) return limit_error("metadata arrays nested deeper than 4");
  for (uint64_t i = 0; i < count; ++i) {  // each turn consumes at least 8 bytes or fails
    uint32_t element_type = kU8;
    uint64_t length = 0;
    if (type == kArray) NWC_TRY(in->read(&element_type, "array element type"));
    NWC_TRY(in->read(&length, type == kArray ? "array length" : "string length"));
    NWC_TRY(skip_elements(in, element_type, length, depth + 1));
  }
  return {};
}

}  // namespace

Result<GgufFile> GgufFile::open(std::unique_ptr<Reader> reader) {
  GgufFile file;
  file.reader_ = std::move(reader);
  NWC_ASSIGN_OR_RETURN(const uint64_t header_end, file.parse());
  NWC_TRY(file.place_tensors(header_end));
  return file;
}

Result<GgufFile> GgufFile::open_header(std::unique_ptr<Reader> reader) {
  GgufFile file;
  file.reader_ = std::move(reader);
  NWC_TRY(file.parse());
  return file;
}

Status GgufFile::append(GgufFile part) {
  std::unordered_set<std::string_view> names;
  for (const GgufTensor& tensor : tensors_) names.insert(tensor.name);
  for (const GgufTensor& tensor : part.tensors_) {
    if (names.count(tensor.name) != 0) return corrupt(quote_tensor(tensor.name) + " is in another part, too");
  }
  std::move(part.tensors_.begin(), part.tensors_.end(), std::back_inserter(tensors_));
  part.tensors_.clear();
  other_parts_.push_back(std::move(part));
  return {};
}

std::vector<Bytes> GgufFile::headers() const {
  std::vector<Bytes> all = {header_};
  for (const GgufFile& part : other_parts_) all.push_back(part.header_);
  return all;
}

// Nothing says how long metadata and directory are: more is read until they end.
Result<uint64_t> GgufFile::parse() {
  const uint64_t most = std::min(reader_->size(), kMaxHeaderBytes);
  uint64_t limit = std::min(most, kFirstHeaderBytes), header_end = 0;
  Status status = parse_header(limit, &header_end);
  while (status.code() == StatusCode::kTruncated && limit < most) {
    limit = std::min(most, 8 * limit);
    status = parse_header(limit, &header_end);
  }
  if (status.code() == StatusCode::kTruncated && most < reader_->size()) {
    return limit_error("metadata and tensor directory are larger than 256 MiB");
  }
  NWC_TRY(status);
  return header_end;
}

Status GgufFile::parse_header(uint64_t limit, uint64_t* header_end) {
  // Nothing stays of a try that ended too early; what it found points into storage that is used again.
  metadata_.clear();
  raw_metadata_.clear();
  tensors_.clear();
  NWC_ASSIGN_OR_RETURN(const Bytes header, read_range(*reader_, 0, limit, &header_storage_));
  ByteReader in(header);
  uint32_t magic = 0, version = 0;
  uint64_t num_tensors = 0, num_keys = 0;
  NWC_TRY(in.read(&magic, "magic"));
  if (magic != 0x46554747) return Status(StatusCode::kUnrecognized, "not a GGUF file (no \"GGUF\" at offset 0)");
  NWC_TRY(in.read(&version, "version"));
  if (version == 0x02000000 || version == 0x03000000) return unsupported("a big-endian GGUF file");
  if (version != 2 && version != 3) {
    return Status(StatusCode::kUnsupportedVersion,
                  "GGUF version " + std::to_string(version) + " at offset 4, only 2 and 3");
  }
  NWC_TRY(in.read(&num_tensors, "tensor_count"));
  NWC_TRY(in.read(&num_keys, "metadata_kv_count"));
  if (num_tensors > kMaxTensors) return limit_error("tensor_count at offset 8 is " + std::to_string(num_tensors));
  if (num_keys > kMaxKeys) return limit_error("metadata_kv_count at offset 16 is " + std::to_string(num_keys));

  for (uint64_t i = 0; i < num_keys; ++i) NWC_TRY(parse_metadata(&in));
  for (uint64_t i = 0; i < num_tensors; ++i) NWC_TRY(parse_tensor(&in));
  header_ = header.first(static_cast<size_t>(in.offset()));
  *header_end = in.offset();
  return {};
}

Status GgufFile::parse_metadata(ByteReader* in) {
  std::string key;
  ByteReader pair = *in;
  NWC_TRY(read_gguf_string(in, &key, kMaxKeyBytes, "metadata key"));
  Value value = {};
  const auto read_value = [&]() -> Status {
    NWC_TRY(in->read(&value.type, "metadata type"));
    value.array = value.type == kArray;
    value.count = 1;
    if (value.array) {
      NWC_TRY(in->read(&value.type, "array element type"));
      NWC_TRY(in->read(&value.count, "array length"));
    }
    value.file_offset = in->offset();
    const ByteReader start = *in;
    NWC_TRY(skip_elements(in, value.type, value.count, 1));
    ByteReader again = start;
    return again.read_bytes(&value.bytes, start.remaining() - in->remaining(), "metadata value");
  };
  NWC_TRY(read_value().with_context("metadata key \"" + key.substr(0, 200) + "\""));
  if (!metadata_.emplace(key, value).second) {
    return corrupt("metadata key \"" + key.substr(0, 200) + "\" occurs twice");
  }
  Bytes bytes;
  NWC_TRY(pair.read_bytes(&bytes, pair.remaining() - in->remaining(), "metadata pair"));
  raw_metadata_.push_back({std::move(key), bytes});
  return {};
}

Status GgufFile::parse_tensor(ByteReader* in) {
  GgufTensor tensor;
  uint32_t num_dims = 0, type = 0;
  NWC_TRY(read_gguf_string(in, &tensor.name, kMaxNameBytes, "tensor name"));
  NWC_TRY(in->read(&num_dims, "n_dimensions"));
  if (num_dims > kMaxGgufDims) {
    return limit_error(quote_tensor(tensor.name) + " has " + std::to_string(num_dims) + " dimensions, more than 4");
  }
  NWC_TRY(in->read_array(&tensor.shape, num_dims, "dimensions"));
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  NWC_TRY(in->read(&type, "tensor type"));
  tensor.type = find_ggml_type(type);
  if (tensor.type == nullptr) {
    return unsupported(quote_tensor(tensor.name) + " is stored as " + ggml_type_name(type) + ", which cannot be read");
  }
  // The decoded size has to be within the limits; then so is the stored one.
  NWC_ASSIGN_OR_RETURN(const uint64_t decoded, check_tensor(tensor.name, tensor.shape, tensor.type->dtype));
  const uint64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (columns % tensor.type->block_elements != 0) {
    return corrupt(quote_tensor(tensor.name) + " has rows of " + std::to_string(columns) + " elements, not whole " +
                   tensor.type->name + " blocks");
  }
  tensor.size_bytes = decoded / dtype_size(tensor.type->dtype) / tensor.type->block_elements * tensor.type->block_bytes;
  NWC_TRY(in->read(&tensor.offset, "tensor offset"));
  tensor.reader = reader_.get();
  tensors_.push_back(std::move(tensor));
  return {};
}

// Turns relative offsets into absolute ones. Tensors have to lie back to back but for the padding to the alignment.
Status GgufFile::place_tensors(uint64_t header_end) {
  uint32_t alignment = kDefaultAlignment;
  NWC_TRY(get("general.alignment", &alignment));
  if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    return corrupt("general.alignment is " + std::to_string(alignment) + ", not a power of two up to 1048576");
  }
  const uint64_t data_start = align_up(header_end, alignment);
  std::vector<const GgufTensor*> order;
  std::unordered_set<std::string_view> names;
  for (GgufTensor& tensor : tensors_) {
    uint64_t end = 0;
    if (!names.insert(tensor.name).second) return corrupt(quote_tensor(tensor.name) + " occurs twice");
    if (tensor.offset % alignment != 0) {
      return corrupt(quote_tensor(tensor.name) + " has offset " + std::to_string(tensor.offset) +
                     ", not a multiple of general.alignment " + std::to_string(alignment));
    }
    if (!checked_add(tensor.offset, data_start, &tensor.offset) ||
        !checked_add(tensor.offset, tensor.size_bytes, &end) || end > reader_->size()) {
      return truncated(quote_tensor(tensor.name) + " at offset " + std::to_string(tensor.offset) + " with " +
                       std::to_string(tensor.size_bytes) + " bytes is beyond the end of the file (" +
                       std::to_string(reader_->size()) + " bytes)");
    }
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
    return std::tie(a->offset, a->size_bytes) < std::tie(b->offset, b->size_bytes);
  });
  uint64_t end = data_start;
  for (const GgufTensor* tensor : order) {
    if (tensor->offset < end) {
      return corrupt(quote_tensor(tensor->name) + " at offset " + std::to_string(tensor->offset) +
                     " overlaps the tensor before it");
    }
    if (tensor->offset - end >= alignment) {
      return corrupt(std::to_string(tensor->offset - end) + " unused bytes before " + quote_tensor(tensor->name) +
                     " at offset " + std::to_string(tensor->offset));
    }
    end = tensor->offset + tensor->size_bytes;
  }
  if (reader_->size() > end && reader_->size() - end >= alignment) {
    return corrupt(std::to_string(reader_->size() - end) + " unexpected bytes at offset " + std::to_string(end));
  }
  return {};
}

}  // namespace nwc
