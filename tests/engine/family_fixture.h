// Tiny models of all families, and the logits that transformers computes with them
// (tests/scripts/make_family_fixtures.py).
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/data/temp_dir.h"
#include "tests/engine/model_fixture.h"
#include "tests/test_paths.h"
#include "trainer/data/safetensors.h"

namespace nwc::test {

struct FamilyFixture {
  std::string name;
  std::shared_ptr<TempDir> kept = std::make_shared<TempDir>();  ///< of this process alone: a test runs in variants
  std::string folder;                                           ///< a Hugging Face folder, in f32
  std::vector<uint32_t> tokens, positions;
  std::vector<float> logits;  ///< [positions][vocab]
};

/// Stands in the list where the source's folder is not at hand, as on a device: tests skip it.
inline constexpr char kNoFixtures[] = "no_fixtures";

inline std::vector<std::string> family_names() {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(source_path("tests/fixtures/families"), missing))
    names.push_back(entry.path().stem().string());
  if (names.empty()) names.push_back(kNoFixtures);
  std::sort(names.begin(), names.end());
  return names;
}

/// Number `i` of the tensor `name`, in [-1, 1): the script has the same lines.
inline float family_number(const std::string& name, uint64_t i) {
  uint64_t z = 0xcbf29ce484222325;
  for (const char c : name) z = (z ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  z += i * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return 2.0f * (static_cast<float>(z >> 40) / 16777216.0f) - 1.0f;
}

inline nlohmann::json read_json(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

/// A fixture's config.json and model.safetensors, in f32.
inline void write_fixture_folder(const nlohmann::json& json, const std::string& folder) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << json["config"].dump(1);
  std::vector<SafetensorsTensor> tensors;
  std::vector<std::vector<float>> values;
  for (const nlohmann::json& t : json["tensors"]) {
    SafetensorsTensor tensor;
    tensor.name = t["name"];
    tensor.shape = t["shape"].get<std::vector<uint64_t>>();
    uint64_t count = 1;
    for (const uint64_t d : tensor.shape) count *= d;
    const float mean = t["mean"], scale = t["scale"];
    std::vector<float> numbers(static_cast<size_t>(count));
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = mean + scale * family_number(tensor.name, i);
    values.push_back(std::move(numbers));
    tensors.push_back(std::move(tensor));
  }
  const Status written = write_safetensors(folder + "/model.safetensors", tensors, {},
                                           [&](size_t index, std::vector<uint8_t>* bytes) -> Status {
                                             bytes->resize(values[index].size() * sizeof(float));
                                             std::memcpy(bytes->data(), values[index].data(), bytes->size());
                                             return {};
                                           });
  EXPECT_TRUE(written.ok()) << written.message();
}

/// Writes the model's folder below the test's temporary folder. changes: of keys of config.json; the logits are those
/// of the model without them.
inline FamilyFixture make_family(const std::string& name, const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json json = read_json(source_path("tests/fixtures/families/" + name + ".json"));
  json["config"].update(changes);
  FamilyFixture f;
  f.name = name;
  f.folder = f.kept->file("family");
  write_fixture_folder(json, f.folder);
  f.tokens = json["tokens"].get<std::vector<uint32_t>>();
  f.positions = json["positions"].get<std::vector<uint32_t>>();
  f.logits = json["logits"].get<std::vector<float>>();
  return f;
}

/// A family's model whose layers add nothing to the residual stream.
inline PlainModel still_model(const FamilyFixture& f) {
  PlainModel model = load_model(f.folder);
  for (auto& [name, tensor] : model.tensors) {
    if (name.ends_with("o_proj.weight") || name.ends_with("w2.weight") || name.ends_with("down_proj.weight"))
      std::fill(tensor.bytes.begin(), tensor.bytes.end(), uint8_t{0});
  }
  return model;
}

}  // namespace nwc::test
