// Tiny models of all families as llama.cpp's converter writes them (tests/scripts/make_gguf_fixtures.py): the fixture
// is the file's header, and says what the data are.
#pragma once

#include <sstream>

#include "tests/engine/family_fixture.h"
#include "trainer/data/gguf_file.h"

namespace nwc::test {

struct GgufFixture {
  FamilyFixture family;
  std::string path;           ///< the whole GGUF file
  std::vector<uint8_t> file;  ///< its bytes
};

inline std::vector<std::string> gguf_family_names() {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(NWC_SOURCE_DIR "/tests/fixtures/families_gguf", missing))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  if (names.empty()) names.push_back(kNoFixtures);
  std::sort(names.begin(), names.end());
  return names;
}

/// Half of the rows of each expert's matrix, or the even or odd ones, which may be columns before.
inline std::vector<float> expert_half(const std::vector<float>& in, const std::vector<uint64_t>& shape,
                                      const std::string& form) {
  const size_t cols = static_cast<size_t>(shape.back()), rows = static_cast<size_t>(shape[shape.size() - 2]);
  const bool turned = form.starts_with("turned"), odd = form.ends_with("odd");
  const size_t height = turned ? cols : rows;
  std::vector<float> out;
  for (size_t at = 0; at < in.size(); at += rows * cols) {
    if (form.ends_with("rows")) {
      const auto begin = in.begin() + static_cast<ptrdiff_t>(at + (form == "first_rows" ? 0 : rows / 2 * cols));
      out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(rows / 2 * cols));
    } else if (turned) {
      const size_t step = form == "turned" ? 1 : 2;
      for (size_t row = odd ? 1 : 0; row < height; row += step)
        for (size_t col = 0; col < rows; ++col) out.push_back(in[at + col * cols + row]);
    } else {
      for (size_t i = odd ? 1 : 0; i < rows * cols; i += 2) out.push_back(in[at + i]);
    }
  }
  return out;
}

/// The numbers of a tensor in one of the forms that converters make.
inline std::vector<float> in_form(const std::vector<float>& in, const std::vector<uint64_t>& shape,
                                  const std::string& form, size_t count) {
  if (form.ends_with("rows") || form.ends_with("even") || form.ends_with("odd") || form == "turned")
    return expert_half(in, shape, form);
  const size_t rows = static_cast<size_t>(shape[0]), cols = in.size() / rows;
  std::vector<float> out(in.size());
  for (size_t row = 0; row < rows; ++row) {
    size_t to = row;
    if (form == "rotary") {  // count: rows of a head, whose halves alternate then
      const size_t in_head = row % count, half = count / 2;
      to = row - in_head + 2 * (in_head % half) + in_head / half;
    } else if (form == "by_head") {  // count: heads, each of which has rows of q, k and v
      const size_t group = rows / (3 * count), head = row / (3 * group), part = row / group % 3;
      to = (part * count + head) * group + row % group;
    }
    for (size_t col = 0; col < cols; ++col) {
      const float value = in[row * cols + col];
      if (form == "transposed") {
        out[col * rows + row] = value;
      } else {
        out[to * cols + col] = form == "plus_one" ? value + 1 : value;
      }
    }
  }
  return out;
}

/// Writes the folder and the GGUF file of a family below the test's temporary folder.
inline GgufFixture make_gguf_family(const std::string& name) {
  const std::string base = NWC_SOURCE_DIR "/tests/fixtures/families_gguf/" + name;
  const nlohmann::json json = read_json(base + ".json");
  GgufFixture f;
  f.family = make_family(name, json["changes"]);
  std::ifstream in(base + ".gguf", std::ios::binary);
  f.file.assign(std::istreambuf_iterator<char>(in), {});
  const size_t header = f.file.size();
  f.file.resize(header + json["data_bytes"].get<size_t>());
  auto parsed = GgufFile::open_header(make_memory_reader({f.file.data(), header}));
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  std::map<std::string, nlohmann::json> sources;
  const nlohmann::json family = read_json(NWC_SOURCE_DIR "/tests/fixtures/families/" + name + ".json");
  for (const nlohmann::json& t : family["tensors"]) sources[t["name"]] = t;
  size_t at = header;
  for (size_t i = 0; i < parsed->tensors().size(); ++i) {
    const nlohmann::json& origin = json["tensors"][i];
    std::vector<float> values;
    if (origin.is_array()) {
      values = origin.get<std::vector<float>>();
    } else {
      std::istringstream words(origin.get<std::string>());
      std::string tensor, form;
      size_t count = 0;
      words >> tensor >> form >> count;
      const bool stack = form == "stack";  // count: of the experts, a tensor each
      for (size_t part = 0; part < (stack ? count : 1); ++part) {
        std::string one = tensor;
        if (stack) one.replace(one.find("{}"), 2, std::to_string(part));
        const auto shape = sources[one]["shape"].get<std::vector<uint64_t>>();
        size_t size = 1;
        for (const uint64_t d : shape) size *= static_cast<size_t>(d);
        const float mean = sources[one]["mean"], scale = sources[one]["scale"];
        for (size_t k = 0; k < size; ++k) values.push_back(mean + scale * family_number(one, k));
        if (!stack) values = in_form(values, shape, form, count);
      }
    }
    std::memcpy(f.file.data() + at, values.data(), values.size() * sizeof(float));
    at += (values.size() * sizeof(float) + 31) / 32 * 32;
  }
  EXPECT_EQ(at, f.file.size());
  EXPECT_EQ(crc32(Bytes(f.file).subspan(header)), json["data_crc32"].get<uint32_t>())
      << "these are not the bytes that the converter wrote";
  f.path = f.family.folder + ".gguf";
  std::ofstream(f.path, std::ios::binary)
      .write(reinterpret_cast<const char*>(f.file.data()), static_cast<std::streamsize>(f.file.size()));
  return f;
}

/// The tokenizer that the script gives the models: 92 tokens of a byte, one of two, three special ones.
inline void write_family_tokenizer(const std::string& folder) {
  nlohmann::json vocab = {{"\u0120", 3}, {"\u010a", 4}, {"th", 95}};
  for (int i = 5; i < 95; ++i) vocab[std::string(1, static_cast<char>('!' + i - 5))] = i;
  nlohmann::json added = nlohmann::json::array();
  for (const char* text : {"<pad>", "<s>", "</s>"}) {
    added.push_back({{"id", added.size()},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  nlohmann::json merges = nlohmann::json::array();
  merges.push_back("t h");
  const nlohmann::json model = {{"type", "BPE"},     {"dropout", nullptr},     {"unk_token", nullptr},
                                {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocab},
                                {"merges", merges}};
  const nlohmann::json tokenizer = {
      {"version", "1.0"},          {"added_tokens", added}, {"normalizer", nullptr}, {"pre_tokenizer", byte_level},
      {"post_processor", nullptr}, {"decoder", byte_level}, {"model", model}};
  std::ofstream(folder + "/tokenizer.json") << tokenizer.dump();
}

}  // namespace nwc::test
