// Tiny encoders of all families, and what transformers computes with them (tests/scripts/make_encoder_fixtures.py).
#pragma once

#include "tests/engine/family_fixture.h"

namespace nwc::test {

struct EncoderFixture {
  std::shared_ptr<TempDir> kept = std::make_shared<TempDir>();
  std::string folder;
  std::vector<uint32_t> tokens;  ///< of a text
  std::vector<float> pixels;     ///< of an image
  std::vector<uint32_t> positions;
  std::vector<float> hidden;  ///< [positions][hidden]
  std::vector<float> embedding;
};

inline std::vector<std::string> encoder_names() {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(source_path("tests/fixtures/encoders"), missing))
    names.push_back(entry.path().stem().string());
  if (names.empty()) names.push_back(kNoFixtures);
  std::sort(names.begin(), names.end());
  return names;
}

inline EncoderFixture make_encoder(const std::string& name) {
  const nlohmann::json json = read_json(source_path("tests/fixtures/encoders/" + name + ".json"));
  EncoderFixture f;
  f.folder = f.kept->file("encoder");
  write_fixture_folder(json, f.folder);
  uint32_t side = json["config"].value("image_size", 0u);
  if (json.contains("preprocessor")) {
    std::ofstream(f.folder + "/preprocessor_config.json") << json["preprocessor"].dump();
    side = json["preprocessor"]["crop_size"]["height"];
  }
  if (json.contains("modules")) {  // as sentence-transformers writes them
    std::filesystem::create_directories(f.folder + "/1_Pooling");
    std::ofstream(f.folder + "/1_Pooling/config.json") << R"({"pooling_mode_mean_tokens": true})";
    std::ofstream(f.folder + "/modules.json") << R"([
      {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
      {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
      {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])";
  }
  if (json.contains("tokens")) {
    f.tokens = json["tokens"].get<std::vector<uint32_t>>();
  } else {
    f.pixels.resize(size_t{3} * side * side);
    for (size_t i = 0; i < f.pixels.size(); ++i) f.pixels[i] = 2.0f * family_number("pixels", i);
  }
  f.positions = json["positions"].get<std::vector<uint32_t>>();
  f.hidden = json["hidden"].get<std::vector<float>>();
  f.embedding = json["embedding"].get<std::vector<float>>();
  return f;
}

struct Encoded {
  std::vector<float> hidden, embedding;
};
inline Encoded encode(Session& session, const EncoderFixture& f) {
  const ModelRecord& m = session.model();
  const size_t count = f.pixels.empty() ? f.tokens.size() : m.max_positions;
  Encoded out{std::vector<float>(count * m.hidden_size), std::vector<float>(m.embedding_size())};
  const Status status = f.pixels.empty() ? session.embed(f.tokens, out.hidden, out.embedding)
                                         : session.embed_image(f.pixels, out.hidden, out.embedding);
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

/// The largest difference from transformers' states and embedding, by the largest number of each.
inline float worst_of(const EncoderFixture& f, const Encoded& out, uint32_t hidden_size) {
  const auto largest = [](std::span<const float> v) {
    float most = 0;
    for (const float x : v) most = std::max(most, std::abs(x));
    return most;
  };
  float worst = largest_difference(out.embedding, f.embedding) / largest(f.embedding);
  for (size_t i = 0; i < f.positions.size(); ++i) {
    const std::span<const float> state =
        std::span(out.hidden).subspan(size_t{f.positions[i]} * hidden_size, hidden_size);
    worst = std::max(worst, largest_difference(state, std::span(f.hidden).subspan(i * hidden_size, hidden_size)) /
                                largest(f.hidden));
  }
  return worst;
}

}  // namespace nwc::test
