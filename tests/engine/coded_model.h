// The project's small model, compressed, for tests of sessions.
#pragma once

#include <filesystem>
#include <fstream>

#include "tests/encode/synthetic_codec.h"
#include "tests/engine/model_fixture.h"
#include "tests/test_paths.h"
#include "trainer/encode/encoder.h"

namespace nwc::test {

/// gutenlm compressed at 4 bits.
inline std::vector<uint8_t> compress_with(const CodecModel& codec) {
  const std::string path = ::testing::TempDir() + "engine_coded_" + std::to_string(std::random_device()()) + ".nwc";
  auto source = open_model_source(source_path("models/gutenlm-2.6m"));
  EXPECT_TRUE(source.ok()) << source.status().message();
  CompressOptions options;
  options.bits = 4;
  options.threads = 2;
  const auto report = compress_model(**source, codec, options, path, {}, {});
  EXPECT_TRUE(report.ok()) << report.status().message();
  std::ifstream in(path, std::ios::binary);
  std::vector<uint8_t> content{std::istreambuf_iterator<char>(in), {}};
  std::filesystem::remove(path);
  return content;
}

/// With a codec that needs no training.
inline const std::vector<uint8_t>& compressed_bytes() {
  static const std::vector<uint8_t> bytes = compress_with(nwc::testing::synthetic_codec());
  return bytes;
}

/// The same codec with a network beside the identity that adds a little to every weight.
inline std::vector<uint8_t> network_compressed_bytes() {
  CodecModel codec = nwc::testing::synthetic_codec();
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  const auto fill = [&](std::vector<float>& numbers, size_t count, float scale, float offset = 0) {
    numbers.resize(count);
    for (float& number : numbers) number = offset + scale * uniform(rng);
  };
  constexpr uint32_t kWidth = 16;
  CodecRecord& record = codec.record;
  record.preset = Preset::kOther;
  for (Network* net : {&record.synthesis, &codec.analysis}) {
    net->width = kWidth;
    net->activation = Activation::kSilu;
    net->blocks.resize(1);
    fill(net->input_weight, kWidth * kChunk, 0.3f);
    fill(net->input_bias, kWidth, 0.1f);
    fill(net->blocks[0].weight, kWidth * kWidth, 0.3f);
    fill(net->blocks[0].bias, kWidth, 0.1f);
    fill(net->output_weight, kChunk * kWidth, net == &codec.analysis ? 0.0f : 0.05f);
    fill(net->output_bias, kChunk, 0.0f);
    fill(net->level_embedding, record.num_levels * kWidth, 0.2f, 0.9f);
  }
  record.codec_id = compute_codec_id(record);
  return compress_with(codec);
}

}  // namespace nwc::test
