// Reads tests/fixtures/tokenizer (written by scripts/fixtures/make_tokenizer_fixtures.py).
#pragma once

#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/format/model_record.h"

namespace nwc {

struct TokenizerFixture {
  std::vector<uint32_t> plain;    ///< the text as it is
  std::vector<uint32_t> special;  ///< special tokens parsed
  bool has_special = false;
};

inline const char* const kTokenizerFixtures[] = {
    "gutenlm",    "gpt2_prefix",     "smollm2",          "llama3",        "llama2",
    "llama2_unk", "metaspace_first", "metaspace_always", "sentencepiece", "sentencepiece_unk"};

inline std::vector<uint8_t> read_fixture(const std::string& name) {
  std::ifstream in(std::string(NWC_SOURCE_DIR) + "/tests/fixtures/tokenizer/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::vector<std::string> fixture_lines(const std::string& name) {
  const std::vector<uint8_t> bytes = read_fixture(name);
  std::istringstream in(std::string(bytes.begin(), bytes.end()));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

inline std::vector<std::string> fixture_strings() {
  std::vector<std::string> strings = fixture_lines("strings.txt");
  for (std::string& line : strings) {
    std::string text;
    for (size_t i = 0; i + 1 < line.size(); i += 2) {
      text.push_back(static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16)));
    }
    line = text;
  }
  return strings;
}

/// Numbers as the scripts write them: "id*n" is n times this one.
inline void append_numbers(const std::string& word, std::vector<uint32_t>* numbers) {
  const size_t star = word.find('*');
  const size_t count = star == std::string::npos ? 1 : std::stoul(word.substr(star + 1));
  numbers->insert(numbers->end(), count, static_cast<uint32_t>(std::stoul(word.substr(0, star))));
}

inline std::vector<uint32_t> parse_id_list(const std::string& line) {
  std::vector<uint32_t> numbers;
  std::istringstream in(line);
  for (std::string word; in >> word;) append_numbers(word, &numbers);
  return numbers;
}

inline std::vector<TokenizerFixture> fixture_ids(const std::string& name) {
  std::vector<TokenizerFixture> fixtures;
  for (const std::string& line : fixture_lines(name + ".ids")) {
    TokenizerFixture fixture;
    fixture.has_special = true;
    std::istringstream in(line);
    std::vector<uint32_t>* ids = &fixture.plain;
    for (std::string word; in >> word;) {
      if (word == "|") {
        ids = &fixture.special;
      } else if (word == "-") {
        fixture.has_special = false;
      } else if (word == "=") {
        fixture.special = fixture.plain;
      } else {
        append_numbers(word, ids);
      }
    }
    fixtures.push_back(std::move(fixture));
  }
  return fixtures;
}

}  // namespace nwc
