// The main() of a harness without libFuzzer: runs files, and all files of folders, through it.
//   HARNESS [--mutations N] FILE_OR_FOLDER...
// With N, each input also comes N times with small changes, the same ones in every run: a little fuzzing with any
// compiler. A fault ends the process; the input's name, and the number of its change, stand in the last line printed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/fuzz/replay_mutate.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" [[gnu::weak]] size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);

namespace {

constexpr size_t kGrowth = 256;  // bytes that a change may add

std::vector<uint8_t> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    std::fprintf(stderr, "replay: cannot read %s\n", path.c_str());
    std::exit(1);
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

void run(const std::vector<uint8_t>& input) {
  // A copy of its own and of the exact size: sanitizers see what reads beyond it.
  std::vector<uint8_t> copy(input);
  copy.shrink_to_fit();
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

void replay(const std::filesystem::path& path, unsigned mutations) {
  const std::vector<uint8_t> input = read_file(path);
  std::printf("%s\n", path.c_str());
  std::fflush(stdout);
  run(input);
  for (unsigned i = 0; i < mutations; ++i) {
    nwc::fuzz::seed_replay_mutations(i);
    std::vector<uint8_t> changed = input;
    changed.resize(input.size() + kGrowth);
    const auto mutate = LLVMFuzzerCustomMutator != nullptr ? LLVMFuzzerCustomMutator
                                                           : [](uint8_t* data, size_t size, size_t max_size, unsigned) {
                                                               return LLVMFuzzerMutate(data, size, max_size);
                                                             };
    changed.resize(mutate(changed.data(), input.size(), changed.size(), i));
    std::printf("  change %u\n", i);
    std::fflush(stdout);
    run(changed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  unsigned mutations = 0;
  size_t inputs = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--mutations") == 0 && i + 1 < argc) {
      mutations = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
      continue;
    }
    std::vector<std::filesystem::path> files;
    if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry.path());
      std::sort(files.begin(), files.end());
    } else if (std::filesystem::exists(argv[i])) {
      files.emplace_back(argv[i]);
    }
    for (const auto& file : files) replay(file, mutations);
    inputs += files.size();
  }
  std::printf("%zu inputs, %u changes of each\n", inputs, mutations);
  if (inputs == 0) std::fprintf(stderr, "replay: no inputs\n");
  return inputs == 0 ? 1 : 0;
}
