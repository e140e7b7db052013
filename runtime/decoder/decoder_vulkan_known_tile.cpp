#include "runtime/decoder/decoder_vulkan_known_tile.h"

namespace nwc {
namespace {

#include "runtime/decoder/decoder_vulkan_known_payload.inc"

constexpr uint32_t kTableEscape = 0, kTableRaw = 1, kTableConstant = 2;

uint32_t known_table(uint32_t level, uint32_t channel) { return level == 0 ? channel % 4 : (3 * channel + 1) % 4; }

}  // namespace

TileGrid known_grid() { return {kKnownRows, kKnownCols, kKnownRows, 64}; }

CodecRecord known_codec() {
  CodecRecord codec;
  codec.num_levels = 2;
  codec.step = {1.0f, 1.0f};
  codec.shrink = {0.0f, 0.0f};
  codec.rate = {0.0f, 0.0f};
  codec.synthesis.S.assign(kChunk * kChunk, 0.0f);
  for (uint32_t level = 0; level < 2; ++level) {
    for (uint32_t c = 0; c < kChunk; ++c) codec.context_map.push_back(static_cast<uint16_t>(known_table(level, c)));
  }
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
  codec.tables = {triangle, raw, constant, flat};
  return codec;
}

std::vector<uint8_t> known_levels() {
  std::vector<uint8_t> levels;
  for (uint32_t column = 0; column < kKnownCols; ++column) levels.push_back(column % 3 == 0 ? 1 : 0);
  return levels;
}

std::vector<int16_t> known_values() {
  const std::vector<uint8_t> levels = known_levels();
  std::vector<int16_t> values;
  uint32_t state = 1;
  for (uint32_t i = 0; i < kKnownRows * kKnownCols; ++i) {
    state = state * 1664525u + 1013904223u;
    const int x = static_cast<int>(state >> 16);
    const uint32_t column = i / kChunk % kKnownCols;
    const uint32_t table = known_table(levels[column], i % kChunk);
    int value = x % 127 - 64;
    if (table == kTableEscape) value = x % 41 == 0 ? x - 32768 : x % 23 - 11;
    if (table == kTableRaw) value = x % 53 == 0 ? x - 32768 : x % 20 - 12;
    if (table == kTableConstant) value = x % 97 == 0 ? (x % 2 == 0 ? -32768 : 32767) : 0;
    values.push_back(static_cast<int16_t>(value));
  }
  return values;
}

Bytes known_payload() { return kKnownPayload; }

}  // namespace nwc
