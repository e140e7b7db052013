// Names of files are UTF-8 in std::string everywhere; the standard library takes bytes of a path for text of the
// system's code page instead, which on Windows is another.
#pragma once

#include <filesystem>
#include <string>

namespace nwc {

/// The path of that name. Its counterpart, path::string(), gives UTF-8 on every system.
inline std::filesystem::path fs_path(const std::string& utf8) { return std::u8string(utf8.begin(), utf8.end()); }

}  // namespace nwc
