#include "host-tools/user_cache.h"

#include <cstdlib>
#include <filesystem>

namespace nwc::cli {

std::string user_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return (std::filesystem::path(cache) / "nwc").string();
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return (std::filesystem::path(home) / ".cache" / "nwc").string();
  return "";
}

}  // namespace nwc::cli
