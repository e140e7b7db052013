// In builds without libpng (NWC_PNG=OFF).
#include "host-tools/image_input.h"

namespace nwc::cli {

Result<Picture> read_png(const std::string& path) {
  return unsupported(path + ": this build of nwc reads no pictures; build it with libpng (NWC_PNG=ON)");
}

}  // namespace nwc::cli
