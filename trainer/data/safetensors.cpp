#include "trainer/data/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/data/json_checked.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's reference implementation
constexpr uint64_t kLengthBytes = 8;

std::optional<Dtype> dtype_from_name(const std::string& name) {
  for (uint8_t i = 0; i < kNumDtypes; ++i) {
    if (name == dtype_name(static_cast<Dtype>(i))) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

// The format demands strings. Nothing in it concerns the weights, so that no more is lost than what is wrong.
void parse_metadata(const Json& value, SafetensorsHeader* header) {
  const auto ignore = [&](const std::string& what) {
    header->notes.push_back({NoteKind::kRepaired, "safetensors_metadata", "__metadata__" + what + "; it is ignored"});
  };
  if (!value.is_object()) return ignore(" is not an object");
  for (const auto& [key, text] : value.items()) {
    if (text.is_string()) {
      header->metadata[key] = text.get<std::string>();
    } else {
      ignore(" \"" + key + "\" is not a string");
    }
  }
}

// Some writers store a single tensor without a name. A .nwc file, and other programs, need one.
std::string name_for_unnamed(const Json& header) {
  std::string name = "unnamed";
  while (header.contains(name)) name += '_';
  return name;
}

// `data_bytes` is what follows the header, which starts at `data_offset` in the file.
Result<SafetensorsTensor> parse_tensor(const std::string& name, const Json& value, uint64_t data_offset,
                                       uint64_t data_bytes) {
  const Json* dtype = find_field(value, "dtype");
  const Json* shape = find_field(value, "shape");
  const Json* range = find_field(value, "data_offsets");
  if (dtype == nullptr || !dtype->is_string() || shape == nullptr || !shape->is_array() || range == nullptr ||
      !range->is_array() || range->size() != 2 || value.size() != 3) {
    return corrupt(quote_tensor(name) + " must have exactly dtype, shape and data_offsets [begin, end]");
  }
  SafetensorsTensor tensor;
  tensor.name = name;
  const std::string& type_name = dtype->get_ref<const std::string&>();
  const std::optional<Dtype> known = dtype_from_name(type_name);
  if (!known) return unsupported(quote_tensor(name) + " has element type " + type_name + ", which cannot be read");
  tensor.dtype = *known;
  for (const Json& dim : *shape) {
    const std::optional<uint64_t> n = as_u64(dim);
    if (!n) return corrupt(quote_tensor(name) + " has a dimension that is not a non-negative integer");
    tensor.shape.push_back(*n);
  }
  const std::optional<uint64_t> begin = as_u64((*range)[0]);
  const std::optional<uint64_t> end = as_u64((*range)[1]);
  if (!begin || !end || *begin > *end) return corrupt(quote_tensor(name) + " has impossible data_offsets");
  if (*end > data_bytes) {
    return truncated(quote_tensor(name) + " ends at byte " + std::to_string(*end) + " of the data, which has only " +
                     std::to_string(data_bytes) + " bytes");
  }
  NWC_ASSIGN_OR_RETURN(tensor.size_bytes, check_tensor(name, tensor.shape, tensor.dtype));
  if (tensor.size_bytes != *end - *begin) {
    return corrupt(quote_tensor(name) + " has " + std::to_string(*end - *begin) + " bytes, its shape and " + type_name +
                   " need " + std::to_string(tensor.size_bytes));
  }
  tensor.offset = data_offset + *begin;
  return tensor;
}

// The format forbids holes: anything not covered by exactly one tensor could hide a second file.
Status check_layout(const std::vector<SafetensorsTensor>& tensors, uint64_t data_offset, uint64_t file_bytes) {
  uint64_t expected = data_offset;
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.offset != expected) {
      return corrupt(quote_tensor(tensor.name) + " starts at file offset " + std::to_string(tensor.offset) +
                     (tensor.offset < expected ? ", inside another tensor" : ", after a hole") + " (expected " +
                     std::to_string(expected) + ")");
    }
    expected = tensor.offset + tensor.size_bytes;
  }
  if (expected != file_bytes) {
    return corrupt(std::to_string(file_bytes - expected) + " unexpected bytes at offset " + std::to_string(expected));
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> read_safetensors_header(const Reader& reader) {
  if (reader.size() < kLengthBytes) return truncated("a safetensors file starts with an 8-byte header length");
  uint8_t length[kLengthBytes];
  NWC_TRY(reader.read(0, length));
  const uint64_t header_bytes = load_le<uint64_t>(length);
  if (std::memcmp(length, "version ", kLengthBytes) == 0) {
    return Status(StatusCode::kUnrecognized, "a Git LFS pointer instead of the file; get the file with git lfs pull");
  }
  if (header_bytes > kMaxHeaderBytes) {
    return limit_error("header length " + std::to_string(header_bytes) +
                       " at offset 0 is over 100000000 bytes; this "
                       "may not be a safetensors file");
  }
  if (header_bytes > reader.size() - kLengthBytes) {
    return truncated("header length " + std::to_string(header_bytes) + " at offset 0 is beyond the end of the file (" +
                     std::to_string(reader.size()) + " bytes)");
  }
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes text, read_range(reader, kLengthBytes, header_bytes, &storage));
  if (text.empty() || text[0] != '{') return corrupt("header at offset 8 must start with '{'");
  NWC_ASSIGN_OR_RETURN(const Json json, parse_json(text, "header"));

  const uint64_t data_offset = kLengthBytes + header_bytes;
  const uint64_t data_bytes = reader.size() - data_offset;
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      parse_metadata(value, &header);
      continue;
    }
    const std::string given = name.empty() ? name_for_unnamed(json) : name;
    if (name.empty()) {
      header.notes.push_back(
          {NoteKind::kRepaired, "tensor_name", "a tensor has an empty name; it is called \"" + given + "\""});
    }
    NWC_ASSIGN_OR_RETURN(SafetensorsTensor tensor, parse_tensor(given, value, data_offset, data_bytes));
    header.tensors.push_back(std::move(tensor));
  }
  // Empty tensors share their offset with a neighbour: they come first, then by name, so that the order is defined.
  std::sort(header.tensors.begin(), header.tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.offset, a.size_bytes, a.name) < std::tie(b.offset, b.size_bytes, b.name);
  });
  NWC_TRY(check_layout(header.tensors, data_offset, reader.size()));
  return header;
}

}  // namespace nwc
