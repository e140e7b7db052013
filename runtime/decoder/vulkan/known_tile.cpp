#include "runtime/decoder/vulkan/known_tile.h"

#include "runtime/format/trellis.h"

namespace nwc {
namespace {

#include "runtime/decoder/vulkan/known_payload.inc"

constexpr uint32_t kTableEscape = 0, kTableRaw = 1, kTableConstant = 2;

uint32_t known_table(uint32_t level, uint32_t context, uint32_t bank) {
  return ((level == 0 ? context : 3 * context + 1) + bank) % 4;
}

CodecRecord known_codec(uint32_t trellis_bits, ContextKind context_kind) {
  CodecRecord codec;
  codec.quantizer = trellis_bits == 0 ? Quantizer::kScalar : Quantizer::kTrellis;
  codec.trellis_bits = static_cast<uint8_t>(trellis_bits);
  codec.context_kind = context_kind;
  codec.num_levels = 2;
  codec.step = {1.0f, 1.0f};
  codec.shrink = {0.0f, 0.0f};
  codec.rate = {0.0f, 0.0f};
  codec.synthesis.skip_weight.assign(kChunk * kChunk, 0.0f);
  for (uint32_t level = 0; level < 2; ++level) {
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      for (uint32_t bank = 0; bank < codec.num_banks(); ++bank)
        codec.context_map.push_back(static_cast<uint16_t>(known_table(level, c, bank)));
    }
  }
  codec.tables = known_tables();
  return codec;
}

KnownTile known_tile(uint32_t rows, uint32_t trellis_bits, ContextKind context_kind) {
  KnownTile tile;
  tile.grid = {rows, kKnownCols, 32, 64};
  tile.codec = known_codec(trellis_bits, context_kind);
  for (uint32_t column = 0; column < kKnownCols; ++column) tile.level.push_back(column % 3 == 0 ? 1 : 0);
  const bool by_class = context_kind == ContextKind::kRowClass;
  for (uint32_t row = 0; by_class && row < rows; ++row) tile.row_class.push_back(static_cast<uint8_t>(5 * row % 16));
  const Trellis* trellis = find_trellis(trellis_bits);
  std::vector<uint16_t> path(kKnownCols, 0);
  uint32_t state = 1;
  for (uint32_t i = 0; i < tile.grid.tile(0).row_blocks() * kChunk * kKnownCols; ++i) {
    state = state * 1664525u + 1013904223u;
    const int x = static_cast<int>(state >> 16);
    const uint32_t column = i / kChunk % kKnownCols;
    const uint32_t row = i / kChunk / kKnownCols * kChunk + i % kChunk;
    const uint32_t context = !by_class ? i % kChunk : row < rows ? tile.row_class[row] : 0;
    const uint32_t bank = Trellis::bank(path[column]);
    const uint32_t table = known_table(tile.level[column], context, bank);
    const int far = trellis == nullptr ? 1 : 2;  // an index is twice the value
    int k = x % 127 - 64;
    if (table == kTableEscape) k = x % 41 == 0 ? (x - 32768) / far : x % 23 - 11;
    if (table == kTableRaw) k = x % 53 == 0 ? (x - 32768) / far : x % 20 - 12;
    if (table == kTableConstant) k = x % 97 == 0 ? (x % 2 == 0 ? -32768 : 32767) / far : 0;
    tile.values.push_back(trellis == nullptr ? static_cast<int16_t>(k) : trellis_index(k, bank));
    if (trellis != nullptr) path[column] = trellis->next(path[column], k);
  }
  return tile;
}

}  // namespace

std::vector<FrequencyTable> known_tables() {
  FrequencyTable triangle;  // values -11..11, escape
  triangle.min = -11;
  for (int s = -11; s <= 11; ++s) triangle.freq.push_back(static_cast<uint16_t>(28 * (12 - (s < 0 ? -s : s))));
  triangle.freq.push_back(64);
  FrequencyTable raw;  // values -12..7 with two raw bits, escape
  raw.raw_bits = 2;
  raw.min = -3;
  raw.freq = {300, 900, 1600, 900, 300, 96};
  FrequencyTable constant;  // 0, escape
  constant.freq = {4095, 1};
  FrequencyTable flat;  // values -64..62, escape; every bucket full
  flat.min = -64;
  flat.freq.assign(128, 32);
  return {triangle, raw, constant, flat};
}

KnownTile scalar_known_tile() {
  KnownTile tile = known_tile(32, 0, ContextKind::kChannel);
  tile.payload = kKnownScalarPayload;
  return tile;
}

KnownTile trellis_known_tile() {
  KnownTile tile = known_tile(29, 8, ContextKind::kRowClass);
  tile.grid.free_states = true;
  tile.payload = kKnownTrellisPayload;
  return tile;
}

}  // namespace nwc
