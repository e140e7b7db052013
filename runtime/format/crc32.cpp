#include <zlib.h>

#include <algorithm>

#include "runtime/format/container.h"

namespace nwc {

uint32_t crc32(Bytes bytes, uint32_t seed) {
  uLong crc = seed;
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min<size_t>(bytes.size() - at, size_t{1} << 30);
    crc = ::crc32(crc, bytes.data() + at, static_cast<uInt>(n));
    at += n;
  }
  return static_cast<uint32_t>(crc);
}

}  // namespace nwc
