// Where nwc keeps what it can make again.
#pragma once

#include <string>

namespace nwc::cli {

/// $XDG_CACHE_HOME/nwc, else ~/.cache/nwc; empty where there is neither. Not made. XDG Base Directory Specification:
/// relative paths are not valid.
std::string user_cache_folder();

}  // namespace nwc::cli
