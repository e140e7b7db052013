#include "host-tools/user_cache.h"

#include "host-tools/process.h"
#include "trainer/data/fs_path.h"

namespace nwc::cli {

std::string user_cache_folder() {
  const std::string root = user_cache_root();
  return root.empty() ? root : (fs_path(root) / "nwc").string();
}

}  // namespace nwc::cli
