// shaders/common/constants.glsl against the C++ constants that it repeats.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>

#include "runtime/codec/decode_tables.h"
#include "runtime/codec/fused_product.h"
#include "runtime/decoder/vulkan/window_layout.h"
#include "runtime/decoder/vulkan/window_path.h"

namespace nwc {
namespace {

TEST(ShaderConstants, EqualTheHosts) {
  const std::map<std::string, uint32_t> expected = {
      {"kChunk", kChunk},
      {"kNumLanes", kNumLanes},
      {"kProbBits", kProbBits},
      {"kRansLow", kRansLow},
      {"kBuckets", kBuckets},
      {"kBucketSlotsLog2", kBucketSlotsLog2},
      {"kTileRecordWords", kTileRecordWords},
      {"kTileOk", static_cast<uint32_t>(TileStatus::kOk)},
      {"kTileTruncated", static_cast<uint32_t>(TileStatus::kTruncated)},
      {"kTileChecksum", static_cast<uint32_t>(TileStatus::kChecksum)},
      {"kTileCorrupt", static_cast<uint32_t>(TileStatus::kCorrupt)},
      {"kTileSubgroupSize", static_cast<uint32_t>(TileStatus::kSubgroupSize)},
      {"kMaxVectors", kMaxFusedBatch},
      {"kConsumeNothing", static_cast<uint32_t>(Consumer::kNothing)},
      {"kConsumeValues", static_cast<uint32_t>(Consumer::kValues)},
      {"kConsumeF32", static_cast<uint32_t>(Consumer::kF32)},
      {"kConsumeF16", static_cast<uint32_t>(Consumer::kF16)},
      {"kConsumeBf16", static_cast<uint32_t>(Consumer::kBf16)},
      {"kConsumeProduct", static_cast<uint32_t>(Consumer::kProduct)},
  };
  std::ifstream source(NWC_SOURCE_DIR "/shaders/common/constants.glsl");
  ASSERT_TRUE(source.is_open());
  std::map<std::string, uint32_t> found;
  const std::regex pattern("const uint (k\\w+) = (\\d+)u;");
  for (std::string line; std::getline(source, line);) {
    std::smatch match;
    if (std::regex_match(line, match, pattern)) found[match[1]] = static_cast<uint32_t>(std::stoul(match[2]));
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace nwc
