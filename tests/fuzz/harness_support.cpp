#include "tests/fuzz/harness_support.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace nwc::fuzz {
namespace {

struct Folder {
  std::string path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "nwc_fuzz_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail("no folder for temporary files: " + name);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "fuzz: %s\n", what.c_str());
  std::abort();
}

const std::string& scratch_folder() {
  static const Folder folder;
  return folder.path;
}

std::string scratch_file(const std::string& name, Bytes bytes) {
  std::string path = scratch_folder() + "/" + name;
  std::FILE* file = std::fopen(path.c_str(), "wb");
  require(file != nullptr, "cannot write a temporary file");
  const bool written = bytes.empty() || std::fwrite(bytes.data(), bytes.size(), 1, file) == 1;
  require((std::fclose(file) == 0) && written, "cannot write a temporary file");
  return path;
}

std::pair<Bytes, Bytes> split_at_nul(Bytes input) {
  const auto end = std::find(input.begin(), input.end(), uint8_t{0});
  const size_t length = static_cast<size_t>(end - input.begin());
  return {input.first(length), input.subspan(std::min(input.size(), length + 1))};
}

uint64_t Random::next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t hash_of(Bytes bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
  return hash;
}

}  // namespace nwc::fuzz
