// Internal to runtime/format: the fast part of crc32().
#pragma once

#include <cstddef>
#include <cstdint>

namespace nwc {

#if defined(__x86_64__)
/// Reduces `size` bytes (a multiple of 64, not 0), before which the CRC register held `start`, to the 16 bytes in `out`
/// that leave the same register behind when they follow a register of 0. Needs PCLMULQDQ.
void crc32_fold_pclmul(const uint8_t* p, size_t size, uint32_t start, uint8_t* out);
#endif

}  // namespace nwc
