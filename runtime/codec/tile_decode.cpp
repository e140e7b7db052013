#include "runtime/codec/tile_decode.h"

#include <algorithm>

#include "runtime/codec/tile_stream.h"

namespace nwc {
namespace {

uint16_t take_word(LaneStates* t) {
  const uint16_t word = load_le<uint16_t>(t->next);
  t->next += sizeof word;
  return word;
}

void renormalise(LaneStates* t, uint32_t lane) {
  if (t->state[lane] < kRansLow && t->next < t->limit) t->state[lane] = t->state[lane] << 16 | take_word(t);
}

// One step of sections 5.3 and 5.6, the readable twin of the SIMD kernels.
template <bool kTrellis>
void decode_step(const DecodeTables& tables, const ColumnGroup& group, uint32_t channel, LaneStates* t, int16_t* out) {
  const uint32_t context = t->context[channel];
  uint16_t* trellis = t->trellis + group.slot * kNumLanes;
  uint32_t bank[kNumLanes] = {}, symbol[kNumLanes], raw[kNumLanes] = {};
  for (uint32_t l = 0; l < group.active; ++l) {
    if (kTrellis) bank[l] = Trellis::bank(trellis[l]);
    const AliasHit hit = lookup(tables.alias[group.table[bank[l]][context][l]], t->state[l] % kProbScale);
    t->state[l] = hit.freq * (t->state[l] >> kProbBits) + hit.rank;
    symbol[l] = hit.symbol;
    renormalise(t, l);
  }
  const auto is_escape = [&](uint32_t l) { return symbol[l] == tables.info[group.table[bank[l]][context][l]] >> 24; };
  for (uint32_t l = 0; group.any_raw_bits && l < group.active; ++l) {
    const uint32_t bits = group.raw_bits[bank[l]][context][l];
    if (bits == 0 || is_escape(l)) continue;
    raw[l] = t->state[l] & ((1u << bits) - 1);
    t->state[l] >>= bits;
    renormalise(t, l);
  }
  for (uint32_t l = 0; l < group.active; ++l) {
    const int32_t unit = 1 << group.raw_bits[bank[l]][context][l];
    const int32_t value =
        (static_cast<int32_t>(symbol[l]) + group.min[bank[l]][context][l]) * unit + static_cast<int32_t>(raw[l]);
    const int16_t k = static_cast<int16_t>(is_escape(l) ? take_word(t) : value);
    out[l] = kTrellis ? trellis_index(k, bank[l]) : k;
    if (kTrellis) trellis[l] = tables.trellis->next(trellis[l], k);
  }
}

template <bool kTrellis>
void decode_group(const DecodeTables& tables, const ColumnGroup& group, LaneStates* tile, LaneValues* out) {
  for (uint32_t c = 0; c < kChunk; ++c) decode_step<kTrellis>(tables, group, c, tile, out->q[c]);
}

}  // namespace

void decode_group_scalar(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                         uint32_t num_tiles, LaneValues* out) {
  for (uint32_t t = 0; t < num_tiles; ++t) {
    tables.trellis ? decode_group<true>(*tables.tables, *groups[t], tiles[t], &out[t])
                   : decode_group<false>(*tables.tables, *groups[t], tiles[t], &out[t]);
  }
}

LaneKernels lane_kernels(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512) {
    return {detect_vbmi2() ? decode_group_avx512 : decode_group_avx2,
            features_group_avx512,
            accumulate_group_avx512,
            feature_product_avx512,
            synthesize_group_avx512,
            store_group_avx512,
            copy_rows_avx512};
  }
  if (level == CpuLevel::kAvx2) {
    return {decode_group_avx2,     features_group_avx2, accumulate_group_avx2, feature_product_avx2,
            synthesize_group_avx2, store_group_avx2,    copy_rows_avx2};
  }
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeon) {  // its stores past the caches are hints, which few processors take
    return {decode_group_neon,     features_group_neon, accumulate_group_neon, feature_product_neon,
            synthesize_group_neon, store_group_neon,    copy_rows_scalar};
  }
#endif
  static_cast<void>(level);
  return {decode_group_scalar,     features_group_scalar, accumulate_group_scalar, feature_product_scalar,
          synthesize_group_scalar, store_group_scalar,    copy_rows_scalar};
}

Status decode_tile(CpuLevel cpu, const DecodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                   std::span<const uint8_t> row_class, Bytes payload, std::span<int16_t> out) {
  assert(out.size() == size_t{geometry.row_blocks()} * geometry.width * kChunk);
  TileStream tile;
  NWC_ASSIGN_OR_RETURN(const MutableBytes copy, tile.prepare(geometry, payload.size()));
  std::copy(payload.begin(), payload.end(), copy.begin());
  NWC_TRY(tile.begin());
  std::vector<ColumnGroup> groups;
  const uint32_t contexts = contexts_of(tables.context_kind, row_class, 0, uint64_t{geometry.row_blocks()} * kChunk);
  build_column_groups(tables, nullptr, level, nullptr, geometry.width, contexts, &groups);
  const LaneKernels kernels = lane_kernels(cpu);
  const LookupTables step_tables = lookup_tables(tables);
  LaneStates* lanes = tile.lanes();
  LaneValues values{};
  for (uint32_t r = 0; r < geometry.row_blocks() && !tile.ran_out(); ++r) {
    int16_t* chunk = out.data() + size_t{r} * geometry.width * kChunk;
    tile.begin_row_block(tables.context_kind, row_class, uint64_t{r} * kChunk);
    for (const ColumnGroup& group : groups) {
      const ColumnGroup* only = &group;
      kernels.decode(step_tables, &only, &lanes, 1, &values);
      if (tile.ran_out()) break;
      for (uint32_t l = 0; l < group.active; ++l, chunk += kChunk) {
        for (uint32_t c = 0; c < kChunk; ++c) chunk[c] = values.q[c][l];
      }
    }
  }
  return tile.finish();
}

}  // namespace nwc
