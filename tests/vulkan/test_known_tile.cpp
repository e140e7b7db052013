// The self-test's committed payload is what the encoder makes of its values, and what the scalar decoder reads.
#include <gtest/gtest.h>

#include "runtime/codec/tile_decode.h"
#include "runtime/decoder/decoder_vulkan_known_tile.h"
#include "trainer/encode/rans_encode.h"

namespace nwc {
namespace {

std::string as_source(const std::vector<uint8_t>& bytes) {
  std::string text;
  char hex[8];
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::snprintf(hex, sizeof hex, "0x%02x,", bytes[i]);
    text += (i % 20 == 0 ? "\n    " : " ") + std::string(hex);
  }
  return text;
}

TEST(KnownTile, CodecIsValid) {
  CodecRecord codec = known_codec();
  EXPECT_TRUE(validate(codec).ok()) << validate(codec).message();
}

TEST(KnownTile, PayloadIsTheEncodersOutput) {
  std::vector<uint8_t> payload;
  const std::vector<uint8_t> levels = known_levels();
  encode_tile(EncodeTables(known_codec()), known_grid().tile(0), levels.data(), nullptr, known_values(), &payload);
  const Bytes committed = known_payload();
  EXPECT_EQ(payload, std::vector<uint8_t>(committed.begin(), committed.end()))
      << "decoder_vulkan_known_payload.inc should hold:" << as_source(payload);
}

TEST(KnownTile, ScalarDecoderGivesTheValues) {
  const std::vector<int16_t> expected = known_values();
  std::vector<int16_t> values(expected.size());
  const std::vector<uint8_t> levels = known_levels();
  const Status status = decode_tile(CpuLevel::kScalar, build_decode_tables(known_codec()), known_grid().tile(0),
                                    levels.data(), {}, known_payload(), values);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(values, expected);
}

TEST(KnownTile, TakesEveryPath) {
  int escapes = 0, raw = 0;
  const CodecRecord codec = known_codec();
  const std::vector<int16_t> values = known_values();
  const std::vector<uint8_t> levels = known_levels();
  for (size_t i = 0; i < values.size(); ++i) {
    const FrequencyTable& table =
        codec.tables[codec.context_map[levels[i / kChunk % kKnownCols] * kChunk + i % kChunk]];
    const int s = (values[i] >> table.raw_bits) - table.min;
    const bool escape = s < 0 || s >= static_cast<int>(table.freq.size()) - 1;
    escapes += escape;
    raw += !escape && table.raw_bits != 0;
  }
  EXPECT_GT(escapes, 10);
  EXPECT_GT(raw, 100);
}

}  // namespace
}  // namespace nwc
