// The project's small model, compressed, for tests of sessions.
#pragma once

#include <filesystem>
#include <fstream>

#include "tests/encode/synthetic_codec.h"
#include "tests/engine/model_fixture.h"
#include "trainer/encode/encoder.h"

namespace nwc::test {

/// gutenlm compressed at 4 bits with a codec that needs no training.
inline const std::vector<uint8_t>& compressed_bytes() {
  static const std::vector<uint8_t> bytes = [] {
    const std::string path = ::testing::TempDir() + "engine_coded_" + std::to_string(std::random_device()()) + ".nwc";
    auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
    EXPECT_TRUE(source.ok()) << source.status().message();
    CompressOptions options;
    options.bits = 4;
    options.threads = 2;
    const auto report = compress_model(**source, nwc::testing::synthetic_codec(), options, path, {}, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    std::ifstream in(path, std::ios::binary);
    std::vector<uint8_t> content{std::istreambuf_iterator<char>(in), {}};
    std::filesystem::remove(path);
    return content;
  }();
  return bytes;
}

}  // namespace nwc::test
