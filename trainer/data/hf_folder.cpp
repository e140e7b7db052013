#include "trainer/data/hf_folder.h"

#include <algorithm>
#include <filesystem>

#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxFileBytes = 256u << 20;

}  // namespace

std::string HfFolder::file(const std::string& name) const { return (fs_path(path_) / fs_path(name)).string(); }

bool HfFolder::has(const std::string& name) const {
  std::error_code error;
  return fs::is_regular_file(fs_path(file(name)), error);
}

Result<std::vector<uint8_t>> HfFolder::load(const std::string& name) const {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(file(name)));
  if (reader->size() > kMaxFileBytes) return limit_error(name + ": larger than 256 MiB");
  std::vector<uint8_t> bytes(static_cast<size_t>(reader->size()));
  NWC_TRY(reader->read(0, bytes).with_context(name));
  return bytes;
}

std::vector<std::string> HfFolder::list(const std::string& suffix) const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(fs_path(path_), error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.ends_with(suffix)) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string list_names(const std::vector<std::string>& names) {
  constexpr size_t kMaxShown = 4;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxShown); ++i) {
    text.append(text.empty() ? "\"" : ", \"").append(names[i], 0, 200).append("\"");
  }
  if (names.size() > kMaxShown) text += " and " + std::to_string(names.size() - kMaxShown) + " more";
  return text;
}

}  // namespace nwc
