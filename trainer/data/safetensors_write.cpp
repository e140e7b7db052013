#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"
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

/// Writes the file, but leaves it under its temporary name. order: numbers of the tensors for the producer.
Result<AtomicFile> write_uncommitted(const std::string& path, std::span<const SafetensorsTensor> tensors,
                                     std::span<const size_t> order, const std::map<std::string, std::string>& metadata,
                                     const TensorProducer& produce) {
  NWC_ASSIGN_OR_RETURN(const std::string header, make_header(tensors, metadata));
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  ByteWriter prefix;
  prefix.write<uint64_t>(header.size());
  prefix.write_string(header);
  NWC_TRY(file.write(prefix.bytes()));

  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsTensor& tensor = tensors[i];
    NWC_TRY(produce(order[i], &bytes).with_context(quote_tensor(tensor.name)));
    NWC_ASSIGN_OR_RETURN(const uint64_t size, check_tensor(tensor.name, tensor.shape, tensor.dtype));
    if (bytes.size() != size) {
      return invalid_argument(quote_tensor(tensor.name) + " was given " + std::to_string(bytes.size()) +
                              " bytes instead of " + std::to_string(size));
    }
    NWC_TRY(file.write(bytes));
  }
  return file;
}

using Shards = std::vector<std::vector<size_t>>;

/// A shard takes tensors until the next one would make it too large.
Result<Shards> share_out(std::span<const SafetensorsTensor> tensors, uint64_t max_bytes, uint64_t* total) {
  Shards shards(1);
  uint64_t filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    NWC_ASSIGN_OR_RETURN(const uint64_t size, check_tensor(tensors[i].name, tensors[i].shape, tensors[i].dtype));
    *total += size;
    if (!shards.back().empty() && (size > max_bytes || filled > max_bytes - size)) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(i);
    filled += size;
  }
  return shards;
}

}  // namespace

Status write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                         const std::map<std::string, std::string>& metadata, const TensorProducer& produce) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  NWC_ASSIGN_OR_RETURN(AtomicFile file, write_uncommitted(path, tensors, order, metadata, produce));
  return file.commit();
}

Status write_safetensors_shards(const std::string& path, std::span<const SafetensorsTensor> tensors,
                                const std::map<std::string, std::string>& metadata, uint64_t max_bytes,
                                const TensorProducer& produce) {
  if (max_bytes == 0) return write_safetensors(path, tensors, metadata, produce);
  constexpr std::string_view kEnding = ".safetensors";
  if (!path.ends_with(kEnding))
    return invalid_argument("the name of files in parts has to end in .safetensors: " + path);
  uint64_t total = 0;
  NWC_ASSIGN_OR_RETURN(const Shards shards, share_out(tensors, max_bytes, &total));
  if (shards.size() == 1) return write_safetensors(path, tensors, metadata, produce);
  std::set<std::string> names;
  for (const SafetensorsTensor& tensor : tensors) {
    if (names.insert(tensor.name).second) continue;
    return invalid_argument(quote_tensor(tensor.name) + ": the name occurs twice");
  }
  const std::string stem = path.substr(0, path.size() - kEnding.size());
  nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", nlohmann::json::object()}};
  std::vector<AtomicFile> files;
  for (size_t s = 0; s < shards.size(); ++s) {
    char part[32];
    std::snprintf(part, sizeof part, "-%05zu-of-%05zu", s + 1, shards.size());
    const std::string name = stem + part + std::string(kEnding);
    std::vector<SafetensorsTensor> of_shard;
    for (const size_t i : shards[s]) {
      of_shard.push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = fs_path(name).filename().string();
    }
    NWC_ASSIGN_OR_RETURN(AtomicFile file, write_uncommitted(name, of_shard, shards[s], metadata, produce));
    files.push_back(std::move(file));
  }
  const std::string text = index.dump(2) + "\n";
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path + ".index.json"));
  NWC_TRY(file.write({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  files.push_back(std::move(file));
  for (AtomicFile& written : files) NWC_TRY(written.commit());
  return {};
}

}  // namespace nwc
