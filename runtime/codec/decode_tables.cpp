#include "runtime/codec/decode_tables.h"

namespace nwc {
namespace {

struct AliasColumns {
  uint32_t freq[kBuckets] = {};
  uint32_t cutoff[kBuckets] = {};
  uint32_t alias[kBuckets] = {};
  uint32_t offset[kBuckets] = {};
};

// doc/format.md, section 5.4. The order of the stacks is part of the bitstream.
AliasColumns build_columns(const std::vector<uint16_t>& freq) {
  constexpr uint32_t kSlots = 1u << kBucketSlotsLog2;
  AliasColumns c;
  uint32_t under[kBuckets], over[kBuckets];
  uint32_t num_under = 0, num_over = 0;
  const auto push = [&](uint32_t i) {
    if (c.cutoff[i] < kSlots) under[num_under++] = i;
    if (c.cutoff[i] > kSlots) over[num_over++] = i;
  };
  for (uint32_t i = 0; i < kBuckets; ++i) {
    c.freq[i] = i < freq.size() ? freq[i] : 0;
    c.cutoff[i] = c.freq[i];
    c.alias[i] = i;
    push(i);
  }
  while (num_over != 0) {
    assert(num_under != 0);  // the cutoffs' mean is 32 throughout
    const uint32_t o = over[--num_over];
    const uint32_t u = under[--num_under];
    c.cutoff[o] -= kSlots - c.cutoff[u];
    c.alias[u] = o;
    c.offset[u] = c.cutoff[o];
    push(o);
  }
  return c;
}

AliasTable pack_shared(const AliasColumns& c) {
  AliasTable t;
  for (uint32_t i = 0; i < kBuckets; ++i) {
    const uint32_t a = c.alias[i];
    // freq 0 never hits: its cutoff is 0. The mask keeps the neighbouring fields clean.
    t.bucket[i].own = ((c.freq[i] - 1) & 0xfffu) | c.cutoff[i] << 12 | a << 18;
    t.bucket[i].other = ((c.freq[a] - 1) & 0xfffu) | ((c.offset[i] - c.cutoff[i]) & 0xfffu) << 12;
  }
  return t;
}

uint64_t pack_simd(const AliasColumns& c, uint32_t i, uint32_t escape) {
  const auto freq = [&](uint32_t s) { return uint64_t{c.freq[s]} | (s == escape ? 1u << 15 : 0u); };
  const uint32_t a = c.alias[i];
  const uint64_t rank = (c.offset[i] - c.cutoff[i]) & 0xffffu;
  return freq(i) | freq(a) << 16 | rank << 32 | uint64_t{c.cutoff[i]} << 48 | uint64_t{a} << 56;
}

}  // namespace

AliasTable build_alias_table(const std::vector<uint16_t>& freq) { return pack_shared(build_columns(freq)); }

AliasHit lookup(const AliasTable& table, uint32_t slot) {
  const uint32_t i = slot >> kBucketSlotsLog2;
  const uint32_t p = slot & ((1u << kBucketSlotsLog2) - 1);
  const AliasBucket& b = table.bucket[i];
  if (p < (b.own >> 12 & 63u)) return {i, (b.own & 0xfffu) + 1, p};
  return {b.own >> 18 & 127u, (b.other & 0xfffu) + 1, ((b.other >> 12) + p) & 0xfffu};
}

uint64_t decode_tables_bytes(const CodecRecord& codec) {
  const uint64_t table = sizeof(AliasTable) + sizeof(uint32_t) + kBuckets * sizeof(uint64_t);
  return 2 * codec.tables.size() * table + codec.context_map.size() * sizeof(uint16_t);  // twice: the vectors grow
}

DecodeTables build_decode_tables(const CodecRecord& codec) {
  DecodeTables d;
  d.context_map = codec.context_map;
  d.num_levels = codec.num_levels;
  d.num_banks = codec.num_banks();
  d.context_kind = codec.context_kind;
  d.trellis = find_trellis(codec.trellis_bits);
  for (const FrequencyTable& t : codec.tables) {
    const AliasColumns columns = build_columns(t.freq);
    const uint32_t escape = static_cast<uint32_t>(t.freq.size()) - 1;
    d.alias.push_back(pack_shared(columns));
    d.info.push_back(static_cast<uint16_t>(t.min) | uint32_t{t.raw_bits} << 16 | escape << 24);
    for (uint32_t i = 0; i < kBuckets; ++i) d.packed.push_back(pack_simd(columns, i, escape));
  }
  return d;
}

}  // namespace nwc
