// tokenize_lines: what a tokenizer makes of texts, for comparisons with other programs (scripts/compare_tokenizers.py).
//
//   tokenize_lines TOKENIZER [--special] [--add-special] [--time] < LINES
//
// TOKENIZER is a tokenizer.json, a .gguf file, or a TOKENIZER section. Each line is a text as hexadecimal UTF-8; the
// answer is a line of its ids, or "error: " and why. --time: all lines are one text, and the answer is how many tokens
// it has and the fastest of five runs in milliseconds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "runtime/model/tokenizer.h"
#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_tokenizer.h"
#include "trainer/data/hf_tokenizer.h"

namespace nwc {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Result<TokenizerRecord> load(const std::string& path) {
  if (ends_with(path, ".gguf")) {
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
    NWC_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::open(std::move(reader)));
    std::string note;
    return parse_gguf_tokenizer(file, &note);
  }
  std::ifstream in(path, std::ios::binary);
  const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!ends_with(path, ".json")) return parse_tokenizer_record(bytes, 0);
  SourceNotes notes;
  return parse_hf_tokenizer(bytes, std::nullopt, &notes);
}

std::string from_hex(const std::string& line) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; };
  std::string text;
  for (size_t i = 0; i + 1 < line.size(); i += 2)
    text.push_back(static_cast<char>(digit(line[i]) * 16 + digit(line[i + 1])));
  return text;
}

Status time_encoding(const Tokenizer& tokenizer, const std::string& text, const Tokenizer::EncodeOptions& options) {
  double best = 1e9;
  size_t count = 0;
  for (int run = 0; run < 5; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, tokenizer.encode(text, options));
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
    best = std::min(best, taken.count());
    count = ids.size();
  }
  std::printf("%zu %.2f\n", count, best);
  return {};
}

Status run(int argc, char** argv) {
  if (argc < 2) return invalid_argument("a tokenizer is missing");
  Tokenizer::EncodeOptions options;
  options.add_special = options.parse_special = false;
  bool timed = false;
  for (int i = 2; i < argc; ++i) {
    const std::string option = argv[i];
    options.parse_special = options.parse_special || option == "--special";
    options.add_special = options.add_end = options.add_special || option == "--add-special";
    timed = timed || option == "--time";
  }
  NWC_ASSIGN_OR_RETURN(TokenizerRecord parsed, load(argv[1]));
  // As the file holds it.
  NWC_ASSIGN_OR_RETURN(TokenizerRecord record, parse_tokenizer_record(serialize(parsed), 0));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::create(std::move(record)));
  std::string whole;
  for (std::string line; std::getline(std::cin, line);) {
    if (timed) {
      whole += from_hex(line);
      continue;
    }
    const auto ids = tokenizer->encode(from_hex(line), options);
    if (!ids.ok()) {
      std::printf("error: %s\n", std::string(ids.status().message()).c_str());
      continue;
    }
    for (size_t i = 0; i < ids->size(); ++i) std::printf(i == 0 ? "%u" : " %u", (*ids)[i]);
    std::printf("\n");
  }
  return timed ? time_encoding(*tokenizer, whole, options) : Status();
}

}  // namespace
}  // namespace nwc

int main(int argc, char** argv) {
  const nwc::Status status = nwc::run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}
