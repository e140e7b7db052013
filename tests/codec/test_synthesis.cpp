#include <gtest/gtest.h>

#include "runtime/codec/synthesis.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::CodecOptions;

TEST(Synthesis, LinearByHand) {
  CodecRecord codec = reference::make_codec({}, 1);
  codec.step = {0.5f, 1, 1};
  codec.shrink = {0.25f, 0, 0};
  std::fill(codec.synthesis.skip_weight.begin(), codec.synthesis.skip_weight.end(), 0.0f);
  codec.synthesis.skip_weight[0 * 16 + 1] = 2;   // y0 = 2 z1
  codec.synthesis.skip_weight[3 * 16 + 2] = -1;  // y3 = -z2
  std::vector<int16_t> k(16, 0);
  k[1] = 3;
  k[2] = -5;
  const uint8_t level = 0;
  for (const CpuLevel cpu : {CpuLevel::kScalar, detect_cpu_level()}) {
    std::vector<float> y(16, -1);
    synthesize_chunks(cpu, codec, k, &level, y);
    EXPECT_FLOAT_EQ(y[0], 2 * (3 - 0.25f) * 0.5f);
    EXPECT_FLOAT_EQ(y[3], (5 - 0.25f) * 0.5f);
    EXPECT_EQ(y[1], 0);
  }
}

// The input's map has one entry, h = z0 + 1; the block u = 2 h, ReLU, times the level's embedding; then the output's
// map and the skip.
TEST(Synthesis, OneBlockByHand) {
  CodecOptions options;
  options.width = 16;
  options.blocks = 1;
  options.activation = Activation::kRelu;
  options.levels = 2;
  CodecRecord codec = reference::make_codec(options, 1);
  Network& g = codec.synthesis;
  for (auto* v : {&g.input_weight, &g.input_bias, &g.output_weight, &g.output_bias, &g.skip_weight, &g.blocks[0].weight,
                  &g.blocks[0].bias})
    std::fill(v->begin(), v->end(), 0.0f);
  codec.step = {1, 1};
  codec.shrink = {0, 0};
  g.input_weight[5 * 16 + 0] = 1;  // h5 = z0 + 1
  g.input_bias[5] = 1;
  g.blocks[0].weight[5 * 16 + 5] = 2;  // u5 = 2 h5
  std::fill(g.level_embedding.begin(), g.level_embedding.end(), 0.0f);
  g.level_embedding[5] = 10;
  g.level_embedding[16 + 5] = 100;
  g.output_weight[2 * 16 + 5] = 1;
  g.output_bias[2] = 0.5f;
  g.skip_weight[2 * 16 + 0] = 1;
  std::vector<int16_t> k(32, 0);
  k[0] = 3;
  k[16] = -3;
  const uint8_t level[2] = {0, 1};
  for (const CpuLevel cpu : {CpuLevel::kScalar, detect_cpu_level()}) {
    std::vector<float> y(32);
    synthesize_chunks(cpu, codec, k, level, y);
    EXPECT_FLOAT_EQ(y[2], (4 + 8) * 10 + 0.5f + 3);
    EXPECT_FLOAT_EQ(y[16 + 2], (-2 + 0) * 100 + 0.5f - 3);
  }
}

TEST(Synthesis, TwinsWithinTolerance) {
  uint32_t seed = 0;
  struct Case {
    uint32_t width, blocks, levels;
    Activation activation;
    bool layer_norm;
  };
  for (const Case& c : {Case{0, 0, 3, Activation::kNone, false}, Case{16, 1, 1, Activation::kRelu, false},
                        Case{64, 2, 17, Activation::kRelu, false}, Case{48, 3, 40, Activation::kSilu, true},
                        Case{64, 2, 64, Activation::kRelu, true}, Case{128, 2, 32, Activation::kSilu, false}}) {
    CodecOptions options;
    options.width = c.width;
    options.blocks = c.blocks;
    options.levels = c.levels;
    options.activation = c.activation;
    options.layer_norm = c.layer_norm;
    const CodecRecord codec = reference::make_codec(options, ++seed);
    std::mt19937 rng(++seed);
    const size_t num_chunks = 77;
    std::vector<int16_t> k(num_chunks * 16);
    std::vector<uint8_t> level(num_chunks);
    for (int16_t& x : k) x = static_cast<int16_t>(static_cast<int>(rng() % 21) - 10);
    for (uint8_t& x : level) x = static_cast<uint8_t>(rng() % c.levels);
    std::vector<float> expected(k.size()), y(k.size());
    synthesize_chunks(CpuLevel::kScalar, codec, k, level.data(), expected);
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      synthesize_chunks(cpu, codec, k, level.data(), y);
      for (size_t i = 0; i < y.size(); ++i) {
        float largest = 0;
        for (size_t j = i / 16 * 16; j < i / 16 * 16 + 16; ++j) largest = std::max(largest, std::abs(expected[j]));
        ASSERT_LE(std::abs(y[i] - expected[i]), 0x1p-14f * (1 + largest))
            << cpu_level_name(cpu) << " width " << c.width;
      }
    }
  }
}

}  // namespace
}  // namespace nwc
