// Dependent quantization: two scalar quantizers ("banks") and a state that chooses between them (doc/format.md,
// section 5.6).
#pragma once

#include <cstdint>

namespace nwc {

/// Shift register of v bits with Ungerboeck's polynomials; those of 10 and 12 bits are the best of some hundreds that
/// were tried (doc/format.md, section 5.6). State 0 at the top of every column of a tile.
struct Trellis {
  uint8_t bits = 0;     ///< v
  uint16_t on_odd = 0;  ///< added (modulo 2) to the shifted state if the state was odd: h0 without its last bit
  uint16_t parity = 0;  ///< the same if the symbol's value is odd: h1 without its last bit

  uint32_t num_states() const { return 1u << bits; }
  /// k: the value just decoded; only its lowest bit counts.
  uint16_t next(uint16_t state, int32_t k) const {
    return static_cast<uint16_t>((state >> 1) ^ ((state & 1) * on_odd) ^ ((k & 1) * parity));
  }
  static uint32_t bank(uint16_t state) { return state & 1u; }
};

inline constexpr Trellis kTrellises[] = {{2, 2, 1},   {3, 5, 2},     {4, 9, 2},      {5, 18, 4},
                                         {6, 33, 10}, {8, 166, 121}, {10, 794, 487}, {12, 3166, 1367}};

/// The trellis of a number of bits; nullptr if the format has none.
constexpr const Trellis* find_trellis(uint32_t bits) {
  for (const Trellis& t : kTrellises)
    if (t.bits == bits) return &t;
  return nullptr;
}

/// Reconstruction index q of value k, in units of the step: bank 0 has the even numbers, bank 1 zero and the odd ones.
/// Modulo 2^16.
constexpr int16_t trellis_index(int32_t k, uint32_t bank) {
  const int32_t sign = (k > 0) - (k < 0);
  return static_cast<int16_t>(2 * k - static_cast<int32_t>(bank) * sign);
}
/// The inverse, for an index that the bank has.
constexpr int16_t trellis_value(int16_t q, uint32_t bank) {
  const int32_t sign = (q > 0) - (q < 0);
  return static_cast<int16_t>((q + (bank != 0 ? sign : 0)) / 2);
}

}  // namespace nwc
