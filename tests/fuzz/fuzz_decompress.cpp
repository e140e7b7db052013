// A model file to a folder and to GGUF, with the files of its source that it keeps: whatever they hold, what is written
// lies in the folder named, and what nwc wrote it can read.
#include <algorithm>
#include <filesystem>

#include "tests/fuzz/container_mutator.h"
#include "tests/fuzz/source_checks.h"
#include "trainer/data/gguf_file.h"
#include "trainer/inspect/decompress.h"

using namespace nwc;
using namespace nwc::fuzz;

namespace {

constexpr uint64_t kMaxElements = 1 << 14;

bool small_enough(const NwcFile& file) {
  uint64_t elements = 0;
  for (const TensorRecord& r : file.tensors()) {
    if (r.num_elements() > kMaxElements) return false;
    elements += r.num_elements();
  }
  return elements <= kMaxElements && file.tensors().size() < 64 &&
         (!file.codec() || file.codec()->synthesis.width < 64);
}

// Beside what was there before: nothing but `name`.
void check_folder(const std::string& name, size_t entries_before) {
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(scratch_folder())) ++entries;
  const bool there = std::filesystem::exists(scratch_folder() + "/" + name);
  require(entries == entries_before + there, "nothing is written beside what was asked for, or left behind");
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return mutate_container(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input(data, size);
  const auto file = NwcFile::open(make_memory_reader(input));
  if (!file.ok() || !small_enough(**file)) return 0;
  static const std::unique_ptr<Runner> runner = make_thread_pool(1);
  const auto decoder = create_cpu_decoder(**file, *runner, CpuLevel::kScalar);
  require(decoder.ok(), "a decoder for the CPU");
  const auto record = load_source_record((*file)->container());
  const SourceRecord* source = record.ok() && *record ? &**record : nullptr;
  if (source != nullptr) {
    const std::vector<uint8_t> bytes = serialize(*source);
    const auto again = parse_source_record(bytes, 0);
    require(again.ok() && serialize(*again) == bytes, "a source record survives being written and read");
  }
  constexpr std::optional<Dtype> kTypes[] = {std::nullopt, Dtype::kF32, Dtype::kF16};
  const std::optional<Dtype> type = kTypes[hash_of(input) % std::size(kTypes)];
  std::error_code ignored;
  std::vector<std::string> notes;

  const std::string folder = scratch_folder() + "/folder", gguf = scratch_folder() + "/model.gguf";
  const Status to_folder = decompress_to_folder(**file, **decoder, source, type, folder, {}, &notes);
  require(to_folder.ok() == std::filesystem::exists(folder), "a folder if and only if there is no error");
  check_folder("folder", 0);
  if (to_folder.ok()) {
    const auto model = open_model_source(folder);  // what the source kept may be damaged, or of another model
    if (model.ok()) check_source(**model, input);
  }
  std::filesystem::remove_all(folder, ignored);

  constexpr const char* kGgufTypes[] = {"as the source", "f32", "f16", "q8_0", "q4_k_m"};
  const GgufFileType* gguf_type = find_gguf_file_type(kGgufTypes[hash_of(input) / 16 % std::size(kGgufTypes)]);
  const Status to_gguf = decompress_to_gguf(**file, **decoder, *runner, source, gguf_type, gguf, {}, &notes);
  require(to_gguf.ok() == std::filesystem::exists(gguf), "a file if and only if there is no error");
  check_folder("model.gguf", 0);
  if (to_gguf.ok()) {
    auto reader = open_file_reader(gguf);
    require(reader.ok(), "a file that was written");
    const auto header = GgufFile::open(std::move(reader).value());
    if (!header.ok()) fail("a GGUF file that was written cannot be read: " + header.status().message());
    const auto model = open_model_source(gguf);  // its description may not fit its tensors
    if (model.ok()) check_source(**model, input);
  }
  std::filesystem::remove_all(gguf, ignored);
  return 0;
}
