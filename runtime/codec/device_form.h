// How the integers of a tensor lie in the memory of a device: as an IntegerForm says, and behind that what its kernels
// look up.
#pragma once

#include "runtime/base/checked.h"
#include "runtime/codec/integer_form.h"

namespace nwc {

inline constexpr uint32_t kDeviceCounts = 3;

/// Places behind the form's own parts, in bytes. Where an IntegerForm has the beginnings of the row blocks' outliers, a
/// device leaves a gap: it finds a place for each row block's outliers when it meets them, in any order, so that both
/// ends are written down.
struct DeviceForm {
  explicit DeviceForm(const IntegerForm& form) {
    units_at = form.bytes;
    ranges_at = units_at + align_up(form.units() * sizeof(uint32_t), 64);
    count_at = ranges_at + form.row_blocks() * 2 * sizeof(uint32_t);
    bytes = align_up(count_at + kDeviceCounts * sizeof(uint32_t), 64);
  }
  uint64_t units_at = 0;   ///< u32 [units], device_unit()
  uint64_t ranges_at = 0;  ///< u32 [row blocks][2], first outlier and the one behind the last
  /// u32: outliers of the tensor; u32: other than 0 where they were too many; u32: row blocks that were packed
  uint64_t count_at = 0;
  uint64_t bytes = 0;
};

/// Entries of the units, as they lie from units_at on: bits, and from bit 4 on how many times 64 bytes lie in front of
/// a unit in its row block.
inline std::vector<uint32_t> device_units(const IntegerForm& form) {
  std::vector<uint32_t> entries;
  uint32_t at = 0;
  for (const uint8_t bits : form.bits) {
    entries.push_back(at / 64 << 4 | bits);
    at += unit_bytes(bits);
  }
  return entries;
}

}  // namespace nwc
