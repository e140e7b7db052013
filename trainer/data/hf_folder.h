// The files of a folder as Hugging Face publishes it.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "runtime/base/status.h"

namespace nwc {

class HfFolder {
 public:
  explicit HfFolder(std::string path) : path_(std::move(path)) {}

  /// Path of the file `name`, which is relative to the folder.
  std::string file(const std::string& name) const;
  /// There is such a file, or a link to one.
  bool has(const std::string& name) const;
  /// The whole content. errors: kIo, kLimit (over 256 MiB); start with the name
  Result<std::vector<uint8_t>> load(const std::string& name) const;
  /// Names of the files that end in `suffix`, sorted.
  std::vector<std::string> list(const std::string& suffix) const;

 private:
  std::string path_;
};

/// "a", "b", "c" and 7 more: at most four names, for a message.
std::string list_names(const std::vector<std::string>& names);

}  // namespace nwc
