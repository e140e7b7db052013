// The folder for files that nwc can make again.
#pragma once

#include <string>

namespace nwc::cli {

/// Returns $XDG_CACHE_HOME/nwc, else ~/.cache/nwc, and an empty string if neither is set. The folder is not created.
/// Relative paths are not valid, by the XDG Base Directory Specification.
std::string user_cache_folder();

}  // namespace nwc::cli
