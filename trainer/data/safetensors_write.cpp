#include <nlohmann/json.hpp>

#include "trainer/data/atomic_file.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

// The header keeps the order of the tensors, and is padded with spaces so that the data starts 8-aligned.
Result<std::string> make_header(std::span<const SafetensorsTensor> tensors,
                                const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::map<std::string, bool> seen = {{"", true}, {"__metadata__", true}};
  uint64_t at = 0;  // cannot overflow: at most 2^40 bytes a tensor
  for (const SafetensorsTensor& tensor : tensors) {
    if (!seen.emplace(tensor.name, true).second) {
      return invalid_argument(quote_tensor(tensor.name) + ": the name is empty, reserved, or occurs twice");
    }
    NWC_ASSIGN_OR_RETURN(const uint64_t size, check_tensor(tensor.name, tensor.shape, tensor.dtype));
    // emplace_back, not operator[]: the ordered map would search its whole length for every key.
    nlohmann::ordered_json entry = nlohmann::ordered_json::object();
    entry["dtype"] = dtype_name(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {at, at + size};
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(tensor.name, std::move(entry));
    at += size;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    return invalid_argument("a tensor name or metadata entry is not valid UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

Status write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                         const std::map<std::string, std::string>& metadata, const TensorProducer& produce) {
  NWC_ASSIGN_OR_RETURN(const std::string header, make_header(tensors, metadata));
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  ByteWriter prefix;
  prefix.write<uint64_t>(header.size());
  prefix.write_string(header);
  NWC_TRY(file.write(prefix.bytes()));

  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsTensor& tensor = tensors[i];
    NWC_TRY(produce(i, &bytes).with_context(quote_tensor(tensor.name)));
    NWC_ASSIGN_OR_RETURN(const uint64_t size, check_tensor(tensor.name, tensor.shape, tensor.dtype));
    if (bytes.size() != size) {
      return invalid_argument(quote_tensor(tensor.name) + " was given " + std::to_string(bytes.size()) +
                              " bytes instead of " + std::to_string(size));
    }
    NWC_TRY(file.write(bytes));
  }
  return file.commit();
}

}  // namespace nwc
