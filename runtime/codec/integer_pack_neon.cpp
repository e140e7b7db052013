// NEON twin of pack_unit_scalar (integer_pack_simd.h): a register has four rows of a group of columns.
#include "runtime/codec/integer_pack_simd.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace nwc {
namespace {

struct Neon {
  using Bytes = uint8x16_t;
  using Over = uint16x8_t;
  static constexpr uint32_t kBytes = 16;

  static Bytes zero() { return vdupq_n_u8(0); }
  static Over none() { return vdupq_n_u16(0); }
  static void store(uint8_t* p, Bytes v) { vst1q_u8(p, v); }
  static Bytes either(Bytes a, Bytes b) { return vorrq_u8(a, b); }
  template <int kMask>
  static Bytes keep(Bytes v) {
    return vandq_u8(v, vdupq_n_u8(kMask));
  }
  template <int kLeft>
  static Bytes shift(Bytes v) {
    if constexpr (kLeft > 0) {
      return vshlq_n_u8(v, kLeft);
    } else if constexpr (kLeft < 0) {
      return vshrq_n_u8(v, -kLeft);
    } else {
      return v;
    }
  }

  /// part: 0 to 3, of a row.
  template <int kBits>
  static int16x8_t biased(const int16_t* row, uint32_t part) {
    return vqaddq_s16(vld1q_s16(row + 8 * part), vdupq_n_s16(1 << (kBits - 1)));
  }
  template <int kBits>
  static uint16x8_t not_in_range() {
    return vdupq_n_u16(static_cast<uint16_t>(-(1 << kBits)));
  }
  template <int kBits>
  static bool any(Over over) {
    return vmaxvq_u16(vandq_u16(over, not_in_range<kBits>())) != 0;
  }
  template <int kBits>
  static uint32_t beyond(const int16_t* row) {
    constexpr uint16_t kLane[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    uint32_t all = 0;
    for (uint32_t part = 0; part < 4; ++part) {
      const uint16x8_t over = vtstq_u16(vreinterpretq_u16_s16(biased<kBits>(row, part)), not_in_range<kBits>());
      all |= uint32_t{vaddvq_u16(vandq_u16(over, vld1q_u16(kLane)))} << 8 * part;
    }
    return all;
  }

  template <int kBits>
  static void narrow(const int16_t (*rows)[kNumLanes], Bytes* group, Over* over) {
    for (uint32_t part = 0; part < 4; ++part, group += 2) {
      // The words of two groups in a row.
      const auto row = [&](uint32_t r) {
        const int16x8_t v = biased<kBits>(rows[r], part);
        *over = vorrq_u16(*over, vreinterpretq_u16_s16(v));
        const int16x8_t low = kBits == 8 ? v : vminq_s16(v, vdupq_n_s16((1 << kBits) - 1));
        return vreinterpret_u32_u8(vqmovun_s16(low));
      };
      const uint32x4_t a = vcombine_u32(row(0), row(1)), b = vcombine_u32(row(2), row(3));
      group[0] = vreinterpretq_u8_u32(vuzp1q_u32(a, b));
      group[1] = vreinterpretq_u8_u32(vuzp2q_u32(a, b));
    }
  }
};

}  // namespace

bool pack_unit_neon(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over) {
  return UnitPacker<Neon>::pack(values, bits, unit, over);
}

}  // namespace nwc
#endif
