#include "runtime/codec/integer_pack.h"

#include <algorithm>
#include <cstring>

namespace nwc {

bool pack_unit_scalar(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over) {
  const int32_t bias = 1 << (bits - 1), most = 2 * bias - 1;
  uint8_t bytes[kUnitGroups * kUnitGroupBytes];
  uint32_t beyond[kChunk] = {}, any = 0;
  for (uint32_t r = 0; r < kChunk; ++r) {
    for (uint32_t l = 0; l < kNumLanes; ++l) {
      const int32_t v = int32_t{values.q[r][l]} + bias;
      beyond[r] |= static_cast<uint32_t>(v < 0 || v > most) << l;
      bytes[kUnitGroupBytes * (l / 4) + 4 * r + l % 4] = static_cast<uint8_t>(std::clamp(v, 0, most));
    }
    any |= beyond[r];
  }
  if (any != 0) std::copy(beyond, beyond + kChunk, over);
  if (bits == 8) {
    std::memcpy(unit, bytes, sizeof bytes);
    return any != 0;
  }
  const uint32_t width = bits - 4, per_byte = width == 0 ? 1 : 8 / width;
  std::memset(unit, 0, size_t{kUnitGroupBytes} * bits);
  uint8_t* upper = unit + size_t{4} * kUnitGroupBytes;
  for (uint32_t g = 0; g < kUnitGroups; ++g) {
    for (uint32_t p = 0; p < kUnitGroupBytes; ++p) {
      const uint32_t byte = bytes[kUnitGroupBytes * g + p];
      unit[kUnitGroupBytes * (g / 2) + p] |= static_cast<uint8_t>((byte & 15) << 4 * (g % 2));
      if (width != 0)
        upper[kUnitGroupBytes * (g / per_byte) + p] |= static_cast<uint8_t>(byte >> 4 << width * (g % per_byte));
    }
  }
  return any != 0;
}

PackUnit unit_packer(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512) return pack_unit_avx512;
  if (level == CpuLevel::kAvx2) return pack_unit_avx2;
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeon) return pack_unit_neon;
#endif
  static_cast<void>(level);
  return pack_unit_scalar;
}

}  // namespace nwc
