// NEON twin of decode_group_scalar (tile_decode_simd.h): 4 lanes a register, eight registers a tile. There are no
// gathers: every lane loads its bucket, and there are no masks either, so a step's 32 lanes are compared at once and
// become one word of bits.
#include "runtime/codec/tile_decode_simd.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace nwc {
namespace {

constexpr int kHalves = 4;         // vectors of 8 lanes of 16 bits
constexpr unsigned kPerHalf = 8u;  // lanes

// Row m lists, for each of 8 lanes whose bit in m is set, the bytes of the next word that it gets.
struct ExpandTable {
  uint8_t byte[256][16];
};
constexpr ExpandTable make_expand_table() {
  ExpandTable t{};
  for (unsigned m = 0; m < 256; ++m) {
    uint8_t next = 0;
    for (unsigned l = 0; l < kPerHalf; ++l) {
      t.byte[m][2 * l] = next;
      t.byte[m][2 * l + 1] = static_cast<uint8_t>(next + 1);
      next = static_cast<uint8_t>(next + 2 * (m >> l & 1u));
    }
  }
  return t;
}
alignas(64) constexpr ExpandTable kExpand = make_expand_table();

// Lanes that take a word each.
struct Takers {
  uint32_t lanes;    // bit l: lane l
  uint32_t through;  // byte h: how many of lanes 0 to 8 h + 7
};

// take: all ones or zero per lane; active: bit l in byte l / 8, in the first four bytes.
[[gnu::always_inline]] inline Takers takers(const uint16x8_t* take, uint8x8_t active) {
  constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bit = vld1q_u8(kBits);
  const auto bits = [&](int h) {
    return vandq_u8(vuzp1q_u8(vreinterpretq_u8_u16(take[h]), vreinterpretq_u8_u16(take[h + 1])), bit);
  };
  uint8x16_t sum = vpaddq_u8(bits(0), bits(2));
  sum = vpaddq_u8(sum, sum);
  sum = vpaddq_u8(sum, sum);
  const uint8x8_t lanes = vand_u8(vget_low_u8(sum), active);
  const uint32_t counts = vget_lane_u32(vreinterpret_u32_u8(vcnt_u8(lanes)), 0);
  return {vget_lane_u32(vreinterpret_u32_u8(lanes), 0), counts * 0x01010101u};
}

// The words of lanes 8 h to 8 h + 7 that take one, junk in the others. next: the first word of the step's 32 lanes.
[[gnu::always_inline]] inline uint16x8_t words_of(const Takers& t, int h, const uint8_t* next) {
  const uint32_t before = h == 0 ? 0 : t.through >> 8 * (h - 1) & 255u;
  const uint8x16_t order = vld1q_u8(kExpand.byte[t.lanes >> 8 * h & 255u]);
  return vreinterpretq_u16_u8(vqtbl1q_u8(vld1q_u8(next + 2 * before), order));
}

// States below 2^16: state = state << 16 | next word, in order of lanes. False, and nothing has changed, if that takes
// words beyond the limit.
[[gnu::always_inline]] inline bool renormalise_lanes(uint8x8_t active, uint32x4_t* states, const uint8_t** next,
                                                     const uint8_t* limit) {
  uint16x8_t low[kHalves];
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    const auto is_low = [&](int v) {
      return vreinterpretq_u16_u32(vcltq_u32(states[2 * h + v], vdupq_n_u32(1u << 16)));
    };
    low[h] = vuzp1q_u16(is_low(0), is_low(1));
  }
  const Takers take = takers(low, active);
  const uint8_t* const after = *next + 2 * (take.through >> 24);
  if (__builtin_expect(after > limit, 0)) return false;
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    const uint16x8_t words = words_of(take, h, *next);
    for (int v = 0; v < 2; ++v) {
      uint32x4_t& state = states[2 * h + v];
      const uint32x4_t word = v == 0 ? vmovl_u16(vget_low_u16(words)) : vmovl_high_u16(words);
      state = vbslq_u32(vcltq_u32(state, vdupq_n_u32(1u << 16)), vsliq_n_u32(word, state, 16), state);
    }
  }
  *next = after;
  return true;
}

// packed[index[0]], packed[index[1]]
[[gnu::always_inline]] inline uint32x4_t load_2(const uint64_t* packed, uint64_t indices) {
  const uint64x1_t first = vld1_u64(packed + static_cast<uint32_t>(indices));
  return vreinterpretq_u32_u64(vcombine_u64(first, vld1_u64(packed + (indices >> 32))));
}

// Section 5.3's pass 1 without the renormalisation; *hit gets bits 12-18 symbol, 19 is it the escape.
[[gnu::always_inline]] inline uint32x4_t advance_states(const uint64_t* packed, uint32x4_t state, uint32x4_t base,
                                                        uint32x4_t* hit) {
  const uint32x4_t own_bucket = vandq_u32(vshrq_n_u32(state, 5), vdupq_n_u32(127));
  const uint64x2_t bucket = vreinterpretq_u64_u32(vorrq_u32(own_bucket, base));
  const uint32x4_t lo = load_2(packed, vgetq_lane_u64(bucket, 0));
  const uint32x4_t hi = load_2(packed, vgetq_lane_u64(bucket, 1));
  // Frequencies of own symbol and alias; rank, cutoff and alias.
  const uint32x4_t freqs = vuzp1q_u32(lo, hi), rest = vuzp2q_u32(lo, hi);
  const uint32x4_t p = vandq_u32(state, vdupq_n_u32(31));
  const uint32x4_t is_own = vcltq_u32(p, vandq_u32(vshrq_n_u32(rest, 16), vdupq_n_u32(63)));
  const uint32x4_t freq = vandq_u32(vbslq_u32(is_own, freqs, vshrq_n_u32(freqs, 16)), vdupq_n_u32(0xffff));
  const uint32x4_t symbol = vbslq_u32(is_own, own_bucket, vshrq_n_u32(rest, 24));
  *hit = vorrq_u32(vshlq_n_u32(symbol, 12), vshlq_n_u32(vshrq_n_u32(freq, 15), 19));
  const uint32x4_t rank = vandq_u32(vaddq_u32(p, vbicq_u32(rest, is_own)), vdupq_n_u32(0xffff));
  return vmlaq_u32(rank, vshrq_n_u32(state, 12), vandq_u32(freq, vdupq_n_u32(0x1fff)));
}

struct Neon {
  using Reg = uint32x4_t;
  using Half = uint16x8_t;
  using Odd = uint16x8_t;    ///< all ones or zero per lane
  using Active = uint8x8_t;  ///< bit l: lane l, in the first four bytes
  static constexpr int kHalves = 4;
  struct Symbols {
    Half value[kHalves];
    Half escape[kHalves];
  };

  static Active active(uint32_t count) {
    const uint32_t mask = count == kNumLanes ? ~0u : (1u << count) - 1;
    return vreinterpret_u8_u32(vdup_n_u32(mask));
  }
  static void load_states(const uint32_t* from, Reg* state) {
    for (int i = 0; i < 2 * kHalves; ++i) state[i] = vld1q_u32(from + 4 * i);
  }
  /// Resting lanes took no words, but their states are junk now: what they had before stays.
  static void store_states(const Reg* state, uint32_t count, uint32_t* to) {
    uint32_t states[kNumLanes];
    for (int i = 0; i < 2 * kHalves; ++i) vst1q_u32(states + 4 * i, state[i]);
    __builtin_memcpy(to, states, count * sizeof states[0]);
  }
  static Half load(const uint8_t* p) { return vmovl_u8(vld1_u8(p)); }
  static Half load(const uint16_t* p) { return vld1q_u16(p); }
  static Half load(const int16_t* p) { return vld1q_u16(reinterpret_cast<const uint16_t*>(p)); }
  template <typename T>
  static Half choose(const T* first, const T* second, Odd odd) {
    return vbslq_u16(odd, load(second), load(first));
  }
  static void store(int16_t* p, Half x) { vst1q_s16(p, vreinterpretq_s16_u16(x)); }
  static void store(uint16_t* p, Half x) { vst1q_u16(p, x); }

  static Odd no_lanes() { return vdupq_n_u16(0); }
  static Odd odd_lanes(Half x) { return vtstq_u16(x, vdupq_n_u16(1)); }
  static Half add(Half a, Half b) { return vaddq_u16(a, b); }

  static Reg base(Half table, int v) {
    return v == 0 ? vshll_n_u16(vget_low_u16(table), 7) : vshll_high_n_u16(table, 7);
  }
  static Reg base(const uint16_t* table) { return vshll_n_u16(vld1_u16(table), 7); }
  [[gnu::always_inline]] static inline Reg advance(const uint64_t* packed, Reg state, Reg base, Reg* hit) {
    return advance_states(packed, state, base, hit);
  }
  static Reg keep(Reg, Reg after, const Active&, int) { return after; }
  [[gnu::always_inline]] static inline bool renormalise(const Active& active, Reg* state, const uint8_t** next,
                                                        const uint8_t* limit) {
    return renormalise_lanes(active, state, next, limit);
  }

  [[gnu::always_inline]] static inline void finish_symbols(const Reg* hit, Symbols* s) {
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) {
      // Bits 0-6 symbol, 7 is it the escape.
      const Half info = vshrn_high_n_u32(vshrn_n_u32(hit[2 * h], 12), hit[2 * h + 1], 12);
      s->escape[h] = vtstq_u16(info, vdupq_n_u16(128));
      s->value[h] = vandq_u16(info, vdupq_n_u16(127));
    }
  }
  [[gnu::always_inline]] static inline void add_raw(Symbols* s, const Half* min, const Half* raw_bits, const Active&,
                                                    Reg* states) {
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) {
      const uint16x8_t bits = vbicq_u16(raw_bits[h], s->escape[h]);
      uint32x4_t raw[2];
      for (int v = 0; v < 2; ++v) {
        uint32x4_t& state = states[2 * h + v];
        const int32x4_t shift = vreinterpretq_s32_u32(v == 0 ? vmovl_u16(vget_low_u16(bits)) : vmovl_high_u16(bits));
        const uint32x4_t rest = vshlq_u32(state, vnegq_s32(shift));
        raw[v] = veorq_u32(state, vshlq_u32(rest, shift));
        state = rest;
      }
      const uint16x8_t value = vshlq_u16(vaddq_u16(s->value[h], min[h]), vreinterpretq_s16_u16(bits));
      s->value[h] = vaddq_u16(value, vuzp1q_u16(vreinterpretq_u16_u32(raw[0]), vreinterpretq_u16_u32(raw[1])));
    }
  }
  static Half values(const Symbols& s, int h) { return s.value[h]; }
  static bool any_escape(const Symbols& s) {
    const Half any = vorrq_u16(vorrq_u16(s.escape[0], s.escape[1]), vorrq_u16(s.escape[2], s.escape[3]));
    return vmaxvq_u16(any) != 0;
  }
  static void take_escapes(const Symbols& s, const Active& active, Half* k, const uint8_t** next) {
    const Takers take = takers(s.escape, active);
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) k[h] = vbslq_u16(s.escape[h], words_of(take, h, *next), k[h]);
    *next += 2 * (take.through >> 24);
  }

  static Half pass_trellis(const LookupTables& tables, Odd odd, Half k, Half* state) {
    const uint16x8_t toggled =
        veorq_u16(vandq_u16(odd, vdupq_n_u16(tables.on_odd)), vandq_u16(odd_lanes(k), vdupq_n_u16(tables.parity)));
    *state = veorq_u16(vshrq_n_u16(*state, 1), toggled);
    // -1, 0 or 1: all ones where negative, less all ones where positive.
    const int16x8_t value = vreinterpretq_s16_u16(k);
    const uint16x8_t sign = vsubq_u16(vcltzq_s16(value), vcgtzq_s16(value));
    return vsubq_u16(vaddq_u16(k, k), vandq_u16(sign, odd));
  }
};

}  // namespace

void decode_group_neon(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  TileDecoder<Neon>::decode(tables, groups, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
