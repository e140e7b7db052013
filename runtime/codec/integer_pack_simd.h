// pack_unit_scalar for a vector type. V has
//   Bytes           a register of V::kBytes bytes: of a group of four columns, those of V::kBytes / 4 rows
//   narrow<kBits>() so many rows of 32 integers, with their bias and within their bits, as the eight groups, which is a
//                   transposition of 32-bit words; what lies beyond the bits leaves a trace in an Over
//   any(), beyond() whether there is such a trace, and the lanes of a row of which it is
//   shift<n>()      every byte shifted left by n, or right by -n; bits of a neighbour may come in and are masked
#pragma once

#include <utility>

#include "runtime/codec/integer_pack.h"

namespace nwc {

template <typename V>
class UnitPacker {
 public:
  static bool pack(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over) {
    switch (bits) {
      case 4: return pack_bits<4>(values, unit, over);
      case 5: return pack_bits<5>(values, unit, over);
      case 6: return pack_bits<6>(values, unit, over);
      default: return pack_bits<8>(values, unit, over);
    }
  }

 private:
  using Bytes = typename V::Bytes;

  template <int kBits>
  static bool pack_bits(const LaneValues& values, uint8_t* unit, uint32_t* over) {
    typename V::Over any = V::none();
    for (uint32_t at = 0; at < kUnitGroupBytes; at += V::kBytes) {
      Bytes group[kUnitGroups];
      V::template narrow<kBits>(values.q + at / 4, group, &any);
      uint8_t* out = unit + at;
      if constexpr (kBits == 8) {
        for (uint32_t g = 0; g < kUnitGroups; ++g) V::store(out + kUnitGroupBytes * g, group[g]);
      } else {
        for (uint32_t g = 0; g < kUnitGroups; g += 2) {
          const Bytes upper = V::template shift<4>(group[g + 1]);
          V::store(out + kUnitGroupBytes * (g / 2),
                   V::either(V::template keep<15>(group[g]), V::template keep<240>(upper)));
        }
        // Block b of the upper bits: of 8 / width groups.
        constexpr int kWidth = kBits - 4, kPerByte = kWidth == 0 ? 1 : 8 / kWidth;
        for (int b = 0; b < kWidth; ++b) {
          V::store(out + kUnitGroupBytes * (4u + static_cast<uint32_t>(b)),
                   upper_bits<kWidth>(group + b * kPerByte, std::make_integer_sequence<int, kPerByte>()));
        }
      }
    }
    if (!V::template any<kBits>(any)) return false;
    for (uint32_t r = 0; r < kChunk; ++r) over[r] = V::template beyond<kBits>(values.q[r]);
    return true;
  }

  template <int kWidth, int... kGroup>
  static Bytes upper_bits(const Bytes* group, std::integer_sequence<int, kGroup...>) {
    Bytes all = V::zero();
    ((all = V::either(all, V::template keep<((1 << kWidth) - 1) << kWidth * kGroup>(
                               V::template shift<kWidth * kGroup - 4>(group[kGroup])))),
     ...);
    return all;
  }
};

}  // namespace nwc
