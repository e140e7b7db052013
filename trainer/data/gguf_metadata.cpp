// Typed access to the metadata of a GgufFile.
#include <cmath>

#include "trainer/data/gguf_file.h"

namespace nwc {
namespace {

Status wrong_type(const std::string& key, const char* expected) {
  return corrupt("metadata key \"" + key + "\" must be " + expected);
}

// One integer of any type; false for other types. Types as numbered in the file.
Status read_integer(ByteReader* in, uint32_t type, bool* is_integer, bool* negative, uint64_t* magnitude) {
  const auto read_as = [&](auto sample) -> Status {
    decltype(sample) value = 0;
    NWC_TRY(in->read(&value, "metadata value"));
    *negative = value < 0;
    *magnitude = *negative ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    return {};
  };
  *is_integer = true;
  switch (type) {
    case 0: return read_as(uint8_t{});
    case 1: return read_as(int8_t{});
    case 2: return read_as(uint16_t{});
    case 3: return read_as(int16_t{});
    case 4: return read_as(uint32_t{});
    case 5: return read_as(int32_t{});
    case 10: return read_as(uint64_t{});
    case 11: return read_as(int64_t{});
    default: *is_integer = false; return {};
  }
}

constexpr uint32_t kTypeF32 = 6;
constexpr uint32_t kTypeBool = 7;
constexpr uint32_t kTypeString = 8;
constexpr uint32_t kTypeF64 = 12;

Status read_length_and_string(ByteReader* in, std::string* out) {
  uint64_t length = 0;
  NWC_TRY(in->read(&length, "string length"));
  return in->read_string(out, length, "string");
}

}  // namespace

// nullptr for an absent key.
Result<const GgufFile::Value*> GgufFile::find(const std::string& key, bool array) const {
  const auto it = metadata_.find(key);
  const Value* value = it == metadata_.end() ? nullptr : &it->second;
  if (value != nullptr && value->array != array) return wrong_type(key, array ? "an array" : "a single value");
  return value;
}

bool GgufFile::is_array(const std::string& key) const {
  const auto it = metadata_.find(key);
  return it != metadata_.end() && it->second.array;
}

Status GgufFile::get(const std::string& key, uint32_t* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, false));
  if (value == nullptr) return {};
  ByteReader in(value->bytes, value->file_offset);
  bool is_integer = false, negative = false;
  uint64_t magnitude = 0;
  NWC_TRY(read_integer(&in, value->type, &is_integer, &negative, &magnitude));
  if (!is_integer || negative || magnitude > UINT32_MAX) return wrong_type(key, "an integer from 0 to 4294967295");
  *out = static_cast<uint32_t>(magnitude);
  return {};
}

Status GgufFile::get(const std::string& key, float* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, false));
  if (value == nullptr) return {};
  ByteReader in(value->bytes, value->file_offset);
  double number = 0;
  if (value->type == kTypeF32) {
    float single = 0;
    NWC_TRY(in.read(&single, "metadata value"));
    number = single;
  } else if (value->type == kTypeF64) {
    NWC_TRY(in.read(&number, "metadata value"));
  } else {
    return wrong_type(key, "a float");
  }
  if (!(std::abs(number) <= 3.4e38)) return wrong_type(key, "a finite float");
  *out = static_cast<float>(number);
  return {};
}

Status GgufFile::get(const std::string& key, bool* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, false));
  if (value == nullptr) return {};
  ByteReader in(value->bytes, value->file_offset);
  uint8_t byte = 0;
  NWC_TRY(in.read(&byte, "metadata value"));
  if (value->type != kTypeBool || byte > 1) return wrong_type(key, "a bool");
  *out = byte != 0;
  return {};
}

Status GgufFile::get(const std::string& key, std::string* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, false));
  if (value == nullptr) return {};
  if (value->type != kTypeString) return wrong_type(key, "a string");
  ByteReader in(value->bytes, value->file_offset);
  return read_length_and_string(&in, out);
}

Status GgufFile::get(const std::string& key, std::vector<std::string>* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, true));
  if (value == nullptr) return {};
  if (value->type != kTypeString) return wrong_type(key, "an array of strings");
  ByteReader in(value->bytes, value->file_offset);
  out->clear();
  for (uint64_t i = 0; i < value->count; ++i) {
    std::string text;
    NWC_TRY(read_length_and_string(&in, &text));
    out->push_back(std::move(text));
  }
  return {};
}

Status GgufFile::get(const std::string& key, std::vector<float>* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, true));
  if (value == nullptr) return {};
  if (value->type != kTypeF32) return wrong_type(key, "an array of f32");
  ByteReader in(value->bytes, value->file_offset);
  return in.read_array(out, value->count, "metadata value");
}

Status GgufFile::get(const std::string& key, std::vector<int32_t>* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, true));
  if (value == nullptr) return {};
  ByteReader in(value->bytes, value->file_offset);
  out->clear();
  for (uint64_t i = 0; i < value->count; ++i) {
    bool is_integer = false, negative = false;
    uint64_t magnitude = 0;
    NWC_TRY(read_integer(&in, value->type, &is_integer, &negative, &magnitude));
    if (!is_integer || magnitude > INT32_MAX) return wrong_type(key, "an array of 32-bit integers");
    const auto number = static_cast<int32_t>(magnitude);
    out->push_back(negative ? -number : number);
  }
  return {};
}

Status GgufFile::get(const std::string& key, std::vector<bool>* out) const {
  NWC_ASSIGN_OR_RETURN(const Value* value, find(key, true));
  if (value == nullptr) return {};
  if (value->type != kTypeBool) return wrong_type(key, "an array of bools");
  out->clear();
  for (const uint8_t byte : value->bytes) {
    if (byte > 1) return wrong_type(key, "an array of bools");
    out->push_back(byte != 0);
  }
  return {};
}

}  // namespace nwc
