#include "trainer/recover/kept_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "runtime/base/bytes.h"
#include "runtime/format/container.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr const char* kOwnerKey = "recovery";
constexpr const char* kCrcKey = "crc32";

MutableBytes bytes_of(std::span<float> values) {
  return {reinterpret_cast<uint8_t*>(values.data()), values.size_bytes()};
}

std::string crc_text(std::span<const KeptTensor> tensors, const KeptNotes& notes) {
  uint32_t crc = 0;
  for (const KeptTensor& t : tensors) crc = crc32(bytes_of(t.values), crc);
  for (const auto& [key, value] : notes) {
    const std::string line = key + "=" + value + "\n";
    crc = crc32({reinterpret_cast<const uint8_t*>(line.data()), line.size()}, crc);
  }
  char text[9];
  std::snprintf(text, sizeof text, "%08x", crc);
  return text;
}

}  // namespace

Status write_kept_tensors(const std::string& path, const std::string& owner, std::span<const KeptTensor> tensors,
                          const KeptNotes& notes) {
  std::vector<SafetensorsTensor> headers(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    headers[i].name = tensors[i].name;
    headers[i].shape = tensors[i].shape;
  }
  std::map<std::string, std::string> metadata = notes;
  metadata[kOwnerKey] = owner;
  metadata[kCrcKey] = crc_text(tensors, notes);
  return write_safetensors(path, headers, metadata, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    const MutableBytes values = bytes_of(tensors[i].values);
    bytes->assign(values.begin(), values.end());
    return {};
  });
}

Status read_kept_tensors(const std::string& path, const std::string& owner, std::span<const KeptTensor> tensors,
                         KeptNotes* notes) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  NWC_ASSIGN_OR_RETURN(const SafetensorsHeader header, read_safetensors_header(*reader));
  const auto says = [&](const std::string& key) {
    const auto found = header.metadata.find(key);
    return found != header.metadata.end() ? found->second : std::string();
  };
  if (says(kOwnerKey) != owner) return corrupt("it belongs to another recovery");
  if (header.tensors.size() != tensors.size()) return corrupt("it does not hold the tensors that are wanted");
  for (auto& [key, value] : *notes) value = says(key);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsTensor& stored = header.tensors[i];
    const KeptTensor& t = tensors[i];
    if (stored.name != t.name || stored.dtype != Dtype::kF32 || stored.shape != t.shape)
      return corrupt(quote_tensor(stored.name) + " is not F32 " + quote_tensor(t.name) + " " + shape_text(t.shape));
    NWC_TRY(reader->read(stored.offset, bytes_of(t.values)));
    if (!std::all_of(t.values.begin(), t.values.end(), [](float v) { return std::isfinite(v); }))
      return corrupt(quote_tensor(t.name) + " holds values that are not finite");
  }
  if (says(kCrcKey) != crc_text(tensors, *notes)) return Status(StatusCode::kChecksum, "its checksum is wrong");
  return {};
}

}  // namespace nwc
