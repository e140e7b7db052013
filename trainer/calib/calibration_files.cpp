#include "trainer/calib/calibration_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr uint64_t kMaxIndexBytes = 64u << 20;
constexpr uint32_t kIndexVersion = 1;

std::string index_path(const std::string& folder) { return folder + "/calibration.json"; }

Status read_u64(const nlohmann::json& object, const char* key, uint64_t* out) {
  const nlohmann::json* field = find_field(object, key);
  const std::optional<uint64_t> value = field != nullptr ? as_u64(*field) : std::nullopt;
  if (!value) return corrupt(std::string("calibration.json: \"") + key + "\" must be a non-negative integer");
  *out = *value;
  return {};
}

Status parse_tensor(const nlohmann::json& entry, CalibratedTensor* tensor) {
  NWC_TRY(get_field(entry, "name", &tensor->name));
  NWC_TRY(get_field(entry, "file", &tensor->file));
  NWC_TRY(get_field(entry, "hessian", &tensor->hessian));
  std::vector<uint64_t> shape(2);
  NWC_TRY(read_u64(entry, "m", &shape[0]));
  NWC_TRY(read_u64(entry, "n", &shape[1]));
  tensor->m = shape[0];
  tensor->n = shape[1];
  NWC_TRY(check_tensor(tensor->name, shape, Dtype::kF32));
  NWC_TRY(check_tensor(tensor->name, {tensor->n, tensor->n}, Dtype::kF32));
  // The file is one of ours, in our folder.
  if (tensor->file.empty() || tensor->file[0] == '.' || tensor->file.find('/') != std::string::npos) {
    return corrupt("calibration.json: " + quote_tensor(tensor->name) + " names no plain file");
  }
  return {};
}

}  // namespace

Status write_calibration_index(const std::string& folder, const CalibrationIndex& index) {
  nlohmann::ordered_json root;
  root["version"] = kIndexVersion;
  root["hash"] = index.hash;
  root["tokens"] = index.tokens;
  root["context"] = index.context;
  root["tensors"] = nlohmann::ordered_json::array();
  for (const CalibratedTensor& tensor : index.tensors) {
    nlohmann::ordered_json entry;
    entry["name"] = tensor.name;
    entry["file"] = tensor.file;
    if (!tensor.hessian.empty()) entry["hessian"] = tensor.hessian;
    entry["m"] = tensor.m;
    entry["n"] = tensor.n;
    root["tensors"].push_back(std::move(entry));
  }
  const std::string text = root.dump(1) + "\n";
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(index_path(folder)));
  NWC_TRY(file.write({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return file.commit();
}

Result<CalibrationIndex> read_calibration_index(const std::string& folder) {
  const std::string path = index_path(folder);
  std::error_code error;
  if (!std::filesystem::exists(fs_path(path), error)) {
    return Status(StatusCode::kNotFound, path + ": " + (error ? error.message() : "no such file"));
  }
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  if (reader->size() > kMaxIndexBytes) return corrupt(path + " is too large for an index");
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes text, read_range(*reader, 0, reader->size(), &storage));
  NWC_ASSIGN_OR_RETURN(const nlohmann::json root, parse_json(text, path));
  uint32_t version = 0;
  NWC_TRY(get_field(root, "version", &version));
  if (version != kIndexVersion) return corrupt(path + " has version " + std::to_string(version) + ", expected 1");
  CalibrationIndex index;
  NWC_TRY(get_field(root, "hash", &index.hash));
  NWC_TRY(read_u64(root, "tokens", &index.tokens));
  NWC_TRY(get_field(root, "context", &index.context));
  const nlohmann::json* tensors = find_field(root, "tensors");
  if (tensors == nullptr || !tensors->is_array()) return corrupt(path + ": \"tensors\" must be a list");
  for (const nlohmann::json& entry : *tensors) {
    NWC_TRY(parse_tensor(entry, &index.tensors.emplace_back()));
  }
  return index;
}

Status write_moments(const std::string& path, const std::string& hash, std::span<const TensorMoments> tensors) {
  struct Part {
    const float* values;
    size_t count;
  };
  std::vector<SafetensorsTensor> headers;
  std::vector<Part> parts;
  std::vector<float> effective;
  effective.reserve(tensors.size());  // parts point into it
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape, const float* values, size_t count) {
    SafetensorsTensor header;
    header.name = name;
    header.shape = std::move(shape);
    headers.push_back(std::move(header));
    parts.push_back({values, count});
  };
  for (const TensorMoments& t : tensors) {
    for (const auto& [suffix, matrix] : {std::pair{".hessian", t.hessian}, std::pair{".fisher", t.fisher}}) {
      if (matrix == nullptr) continue;
      const uint64_t n = static_cast<uint64_t>(matrix->rows());
      add(t.name + suffix, {n, n}, matrix->data(), static_cast<size_t>(matrix->size()));
    }
    if (t.row_importance.empty()) continue;
    add(t.name + ".row_importance", {t.row_importance.size()}, t.row_importance.data(), t.row_importance.size());
    effective.push_back(static_cast<float>(t.effective_tokens));
    add(t.name + ".effective_tokens", {1}, &effective.back(), 1);
  }
  return write_safetensors(
      path, headers, {{"calibration", hash}}, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
        const Part& part = parts[i];
        if (!std::all_of(part.values, part.values + part.count, [](float v) { return std::isfinite(v); })) {
          return corrupt("the model's activations or gradients overflow: its weights or its description must be wrong");
        }
        bytes->resize(part.count * sizeof(float));
        std::memcpy(bytes->data(), part.values, bytes->size());
        return {};
      });
}

bool has_moments(const std::string& path, const std::string& hash) {
  const auto reader = open_file_reader(path);
  if (!reader.ok()) return false;
  const auto header = read_safetensors_header(*reader.value());
  if (!header.ok()) return false;
  const auto found = header->metadata.find("calibration");
  return found != header->metadata.end() && found->second == hash;
}

Result<std::vector<double>> read_effective_tokens(const std::string& path, std::span<const CalibratedTensor> tensors) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  const Result<SafetensorsHeader> header = read_safetensors_header(*reader);
  if (!header.ok()) return header.status().with_context(path);
  std::unordered_map<std::string, const SafetensorsTensor*> by_name;
  for (const SafetensorsTensor& t : header->tensors) by_name.emplace(t.name, &t);
  std::vector<double> out;
  for (const CalibratedTensor& tensor : tensors) {
    const auto found = by_name.find(tensor.name + ".effective_tokens");
    if (found == by_name.end() || found->second->dtype != Dtype::kF32 || found->second->size_bytes != sizeof(float))
      return corrupt(path + ": the effective tokens of " + quote_tensor(tensor.name) + " are missing");
    float value = 0;
    NWC_TRY(reader->read(found->second->offset, {reinterpret_cast<uint8_t*>(&value), sizeof value}));
    out.push_back(double{value});
  }
  return out;
}

std::vector<float> normalized_importance(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  const double mean = sum / static_cast<double>(values.size());
  // Nothing depends on this matrix: all its rows are alike.
  if (!(mean > 0)) return std::vector<float>(values.size(), 1.0f);
  std::vector<float> out(values.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(std::max(values[i] / mean, 1e-6));
  return out;
}

}  // namespace nwc
