#include "host-tools/codec_path.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "host-tools/process.h"
#include "runtime/base/os.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/data/fs_path.h"

namespace nwc::cli {

namespace fs = std::filesystem;

Result<std::string> find_codec(const std::string& name) {
  if (os::name_begin(name) != 0 || fs_path(name).extension() == ".nwcc") return name;
  std::vector<fs::path> folders;
  if (const char* wish = std::getenv("NWC_CODECS")) folders.emplace_back(wish);
  std::error_code error;
  if (const fs::path tool = fs_path(program_path()); !tool.empty()) {
    folders.push_back(tool.parent_path().parent_path() / NWC_INSTALL_DATADIR / "nwc" / "codecs");
    // build/<preset>/bin/nwc in the source tree
    folders.push_back(tool.parent_path().parent_path().parent_path().parent_path() / "codecs");
  }
  std::string searched, known;
  for (const fs::path& folder : folders) {
    const fs::path path = folder / fs_path(name + ".nwcc");
    if (fs::exists(path, error)) return path.string();
    searched += (searched.empty() ? "" : ", ") + folder.string();
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder, error))
      if (entry.path().extension() == ".nwcc") names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    for (const std::string& n : names) known += (known.empty() ? "" : ", ") + n;
  }
  return Status(StatusCode::kNotFound, "no codec named '" + name + "' in " + searched +
                                           (known.empty() ? std::string() : " (there: " + known + ")") +
                                           "; give a name, or the path of a .nwcc file");
}

Result<CodecModel> open_codec(const std::string& name) {
  if (name == "identity") return identity_codec();
  NWC_ASSIGN_OR_RETURN(const std::string path, find_codec(name));
  return load_codec(path);
}

}  // namespace nwc::cli
