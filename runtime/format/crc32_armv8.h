// Internal to runtime/format: crc32() by the CRC instructions of ARMv8.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nwc {

#if defined(__aarch64__)
/// zlib's crc32, of `size` bytes after those whose CRC is `seed`. Only where the machine has the instructions.
uint32_t crc32_armv8(const uint8_t* p, size_t size, uint32_t seed);
#endif

}  // namespace nwc
