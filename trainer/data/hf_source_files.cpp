#include "trainer/data/hf_source_files.h"

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "runtime/base/reader.h"
#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

// Names, not patterns, where names are known: a folder may hold what its owner does not want to pass on.
constexpr std::string_view kNames[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "adapter_config.json",
    "params.json",
    "README.md",
};
constexpr std::string_view kTexts[] = {"LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"};  // with any suffix
// Python that config.json's auto_map names; it runs only where a user says that it may.
constexpr std::string_view kCode[] = {"configuration_", "modeling_", "tokenization_", "processing_",
                                      "image_processing_"};
constexpr uint64_t kMaxTextBytes = 1u << 20;

bool starts_with_any(std::string_view name, std::span<const std::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(), [&](std::string_view start) { return name.starts_with(start); });
}

bool is_text(std::string_view name) { return name == "README.md" || starts_with_any(name, kTexts); }

bool belongs(std::string_view name) {
  if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) return true;
  return is_text(name) || (name.ends_with(".py") && starts_with_any(name, kCode));
}

Result<std::vector<uint8_t>> read_file(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  if (reader->size() > kMaxSourceFileBytes) return io_error(path + ": grows while it is read");
  std::vector<uint8_t> bytes(static_cast<size_t>(reader->size()));
  NWC_TRY(reader->read(0, bytes).with_context(path));
  return bytes;
}

}  // namespace

Result<SourceFiles> collect_hf_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(fs_path(folder), error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const std::string name = it->path().filename().string();
    if (belongs(name) && it->is_regular_file(ignored)) names.push_back(name);
  }
  if (error) return io_error(folder + ": " + error.message());
  std::sort(names.begin(), names.end());
  SourceFiles files;
  for (const std::string& name : names) {
    const std::string path = (fs_path(folder) / fs_path(name)).string();
    const uint64_t size = fs::file_size(fs_path(path), error);
    if (error) return io_error(path + ": " + error.message());
    if (is_text(name) && size > kMaxTextBytes) {
      files.left_out.push_back(name + " is not kept: it has more than 1 MiB");
      continue;
    }
    NWC_TRY(add_source_file(
        name, size, [&] { return read_file(path); }, &files));
  }
  return files;
}

}  // namespace nwc
