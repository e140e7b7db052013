// NEON twin of decode_group_scalar: 4 lanes a register, eight registers a tile. There are no gathers: every lane loads
// its bucket, and there are no masks either, so a step's 32 lanes are compared at once and become one word of bits.
#include "runtime/codec/lane_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace nwc {
namespace {

constexpr int kVectors = 8;        // of 4 lanes
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

// Registers of one tile.
struct Tile {
  uint32x4_t state[kVectors];
  uint16x8_t trellis[kHalves];  // state of each column's trellis
  const uint8_t* next;
};

// States below 2^16: state = state << 16 | next word, in order of lanes.
[[gnu::always_inline]] inline void renormalise(uint8x8_t active, Tile* t) {
  uint16x8_t low[kHalves];
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    const auto is_low = [&](int v) {
      return vreinterpretq_u16_u32(vcltq_u32(t->state[2 * h + v], vdupq_n_u32(1u << 16)));
    };
    low[h] = vuzp1q_u16(is_low(0), is_low(1));
  }
  const Takers take = takers(low, active);
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    const uint16x8_t words = words_of(take, h, t->next);
    for (int v = 0; v < 2; ++v) {
      uint32x4_t& state = t->state[2 * h + v];
      const uint32x4_t word = v == 0 ? vmovl_u16(vget_low_u16(words)) : vmovl_high_u16(words);
      state = vbslq_u32(vcltq_u32(state, vdupq_n_u32(1u << 16)), vsliq_n_u32(word, state, 16), state);
    }
  }
  t->next += 2 * (take.through >> 24);
}

// packed[index[0]], packed[index[1]]
[[gnu::always_inline]] inline uint32x4_t load_2(const uint64_t* packed, uint64_t indices) {
  const uint64x1_t first = vld1_u64(packed + static_cast<uint32_t>(indices));
  return vreinterpretq_u32_u64(vcombine_u64(first, vld1_u64(packed + (indices >> 32))));
}

// Section 5.3's pass 1 without the renormalisation; *hit gets the entry of section 5.4 (DecodeTables::packed).
[[gnu::always_inline]] inline uint32x4_t advance(const uint64_t* packed, uint32x4_t state, uint32x4_t base,
                                                 uint32x4_t* hit) {
  const uint64x2_t bucket = vreinterpretq_u64_u32(vorrq_u32(vandq_u32(vshrq_n_u32(state, 5), vdupq_n_u32(127)), base));
  const uint32x4_t lo = load_2(packed, vgetq_lane_u64(bucket, 0));
  const uint32x4_t hi = load_2(packed, vgetq_lane_u64(bucket, 1));
  const uint32x4_t own = vuzp1q_u32(lo, hi), other = vuzp2q_u32(lo, hi);
  const uint32x4_t p = vandq_u32(state, vdupq_n_u32(31));
  const uint32x4_t is_own = vcltq_u32(p, vshrq_n_u32(own, 20));
  *hit = vbslq_u32(is_own, own, other);
  const uint32x4_t q = vshrq_n_u32(state, 12);
  const uint32x4_t alias_rank = vsubq_u32(vshrq_n_u32(other, 20), vdupq_n_u32(31));
  const uint32x4_t rank = vaddq_u32(p, vbicq_u32(alias_rank, is_own));
  return vmlaq_u32(vaddq_u32(q, rank), q, vandq_u32(*hit, vdupq_n_u32(0xfff)));  // the entry has frequency - 1
}

inline bool any(uint16x8_t x) { return vmaxvq_u16(x) != 0; }

// of_bank[bank of the lane][context][8 h + lane]; odd: where the bank is 1
template <bool kTrellis, typename T>
inline uint16x8_t by_bank(const T (*of_bank)[kNumContexts][kNumLanes], uint32_t context, uint16x8_t odd, int h) {
  const auto part = [&](uint32_t bank) {
    const T* p = &of_bank[bank][context][kPerHalf * static_cast<unsigned>(h)];
    if constexpr (sizeof(T) == 1) {
      return vmovl_u8(vld1_u8(p));
    } else {
      return vld1q_u16(reinterpret_cast<const uint16_t*>(p));
    }
  };
  if constexpr (kTrellis) return vbslq_u16(odd, part(1), part(0));
  return part(0);
}

// Section 5.6: the values' reconstruction indices; the columns' states move on.
inline uint16x8_t pass_trellis(const LookupTables& tables, uint16x8_t odd, uint16x8_t k, uint16x8_t* state) {
  const uint16x8_t k_odd = vtstq_u16(k, vdupq_n_u16(1));
  const uint16x8_t toggled =
      veorq_u16(vandq_u16(odd, vdupq_n_u16(tables.on_odd)), vandq_u16(k_odd, vdupq_n_u16(tables.parity)));
  *state = veorq_u16(vshrq_n_u16(*state, 1), toggled);
  // -1, 0 or 1: all ones where negative, less all ones where positive.
  const int16x8_t value = vreinterpretq_s16_u16(k);
  const uint16x8_t sign = vsubq_u16(vcltzq_s16(value), vcgtzq_s16(value));
  return vsubq_u16(vaddq_u16(k, k), vandq_u16(sign, odd));
}

template <bool kRaw, bool kTrellis>
[[gnu::always_inline]] inline void step(const LookupTables& tables, const ColumnGroup& g, uint32_t context,
                                        uint8x8_t active, Tile* t, int16_t* out) {
  uint16x8_t odd[kHalves], info[kHalves], escape[kHalves], k[kHalves];
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    odd[h] = kTrellis ? vtstq_u16(t->trellis[h], vdupq_n_u16(1)) : vdupq_n_u16(0);
    const uint16x8_t table = by_bank<kTrellis>(g.table, context, odd[h], h);
    uint32x4_t hit[2];
    t->state[2 * h] = advance(tables.packed, t->state[2 * h], vshll_n_u16(vget_low_u16(table), 7), &hit[0]);
    t->state[2 * h + 1] = advance(tables.packed, t->state[2 * h + 1], vshll_high_n_u16(table, 7), &hit[1]);
    info[h] = vshrn_high_n_u32(vshrn_n_u32(hit[0], 12), hit[1], 12);  // bits 0-6 symbol, 7 is it the escape
  }
  renormalise(active, t);
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    escape[h] = vtstq_u16(info[h], vdupq_n_u16(128));
    k[h] = vaddq_u16(vandq_u16(info[h], vdupq_n_u16(127)), by_bank<kTrellis>(g.min, context, odd[h], h));
  }
  if constexpr (kRaw) {
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) {
      const uint16x8_t bits = vbicq_u16(by_bank<kTrellis>(g.raw_bits, context, odd[h], h), escape[h]);
      uint32x4_t raw[2];
      for (int v = 0; v < 2; ++v) {
        uint32x4_t& state = t->state[2 * h + v];
        const int32x4_t shift = vreinterpretq_s32_u32(v == 0 ? vmovl_u16(vget_low_u16(bits)) : vmovl_high_u16(bits));
        const uint32x4_t rest = vshlq_u32(state, vnegq_s32(shift));
        raw[v] = veorq_u32(state, vshlq_u32(rest, shift));
        state = rest;
      }
      k[h] = vshlq_u16(k[h], vreinterpretq_s16_u16(bits));
      k[h] = vaddq_u16(k[h], vuzp1q_u16(vreinterpretq_u16_u32(raw[0]), vreinterpretq_u16_u32(raw[1])));
    }
    renormalise(active, t);
  }
  if (__builtin_expect(any(vorrq_u16(vorrq_u16(escape[0], escape[1]), vorrq_u16(escape[2], escape[3]))), 0)) {
    const Takers take = takers(escape, active);
#pragma GCC unroll 4
    for (int h = 0; h < kHalves; ++h) k[h] = vbslq_u16(escape[h], words_of(take, h, t->next), k[h]);
    t->next += 2 * (take.through >> 24);
  }
#pragma GCC unroll 4
  for (int h = 0; h < kHalves; ++h) {
    if constexpr (kTrellis) k[h] = pass_trellis(tables, odd[h], k[h], &t->trellis[h]);
    vst1q_s16(out + kPerHalf * static_cast<unsigned>(h), vreinterpretq_s16_u16(k[h]));
  }
}

// For the tails of few tables: most steps, even of a group that has raw bits, are without. Hence one copy for all
// loops.
template <bool kTrellis>
[[gnu::noinline]] void raw_step(const LookupTables& tables, const ColumnGroup& g, uint32_t context, uint8x8_t active,
                                Tile* t, int16_t* out) {
  step<true, kTrellis>(tables, g, context, active, t, out);
}

// kTiles tiles in turns: each hides the latency of the other's chain from state to state.
template <int kTiles, bool kRaw, bool kTrellis>
void decode(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles, LaneValues* out) {
  const uint32_t mask = g.active == kNumLanes ? ~0u : (1u << g.active) - 1;
  const uint8x8_t active = vreinterpret_u8_u32(vdup_n_u32(mask));
  Tile t[kTiles];
  for (int i = 0; i < kTiles; ++i) {
    for (int v = 0; v < kVectors; ++v) t[i].state[v] = vld1q_u32(&tiles[i]->state[4 * v]);
    const uint8_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
    for (int h = 0; h < kHalves; ++h)
      t[i].trellis[h] = vmovl_u8(vld1_u8(trellis + kPerHalf * static_cast<unsigned>(h)));
    t[i].next = tiles[i]->next;
  }
  for (uint32_t c = 0; c < kChunk; ++c) {
    for (int i = 0; i < kTiles; ++i) {
      const uint32_t context = tiles[i]->context[c];
      if (kRaw && (g.raw_contexts >> context & 1u) != 0) {
        raw_step<kTrellis>(tables, g, context, active, &t[i], out[i].q[c]);
      } else {
        step<false, kTrellis>(tables, g, context, active, &t[i], out[i].q[c]);
      }
    }
  }
  for (int i = 0; i < kTiles; ++i) {
    // Resting lanes took no words, but their states are junk now: what they had before stays.
    uint32_t state[kNumLanes];
    for (int v = 0; v < kVectors; ++v) vst1q_u32(&state[4 * v], t[i].state[v]);
    __builtin_memcpy(tiles[i]->state, state, g.active * sizeof state[0]);
    uint8_t* trellis = tiles[i]->trellis + g.slot * kNumLanes;
    for (int h = 0; kTrellis && h < kHalves; ++h)
      vst1_u8(trellis + kPerHalf * static_cast<unsigned>(h), vmovn_u16(t[i].trellis[h]));
    tiles[i]->next = t[i].next;
  }
}

template <bool kTrellis>
void decode(const LookupTables& tables, const ColumnGroup& g, LaneStates* const* tiles, uint32_t num_tiles,
            LaneValues* out) {
  // Tiles come in pairs but for the last of a column band: one way for these will do.
  if (num_tiles == 1) return decode<1, true, kTrellis>(tables, g, tiles, out);
  g.any_raw_bits ? decode<2, true, kTrellis>(tables, g, tiles, out) : decode<2, false, kTrellis>(tables, g, tiles, out);
}

}  // namespace

void decode_group_neon(const LookupTables& tables, const ColumnGroup& group, LaneStates* const* tiles,
                       uint32_t num_tiles, LaneValues* out) {
  tables.trellis ? decode<true>(tables, group, tiles, num_tiles, out)
                 : decode<false>(tables, group, tiles, num_tiles, out);
}

}  // namespace nwc
#endif
