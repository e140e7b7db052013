// Small training runs for the tests.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "trainer/nn/random.h"
#include "trainer/train/trainer.h"

namespace nwc {

/// Chunks of unit deviation whose neighbouring values are correlated: a transform can gain something on them.
inline ChunkDataset correlated_chunks(size_t count, double correlation, uint64_t seed = 5) {
  Random random({seed});
  std::vector<float> chunks;
  for (size_t n = 0; n < count; ++n) {
    double v = random.normal();
    for (size_t i = 0; i < kChunk; ++i) {
      chunks.push_back(static_cast<float>(v));
      v = correlation * v + std::sqrt(1 - correlation * correlation) * random.normal();
    }
  }
  return ChunkDataset::from_chunks(std::move(chunks), count / 8);
}

/// A run of a second or less.
inline TrainOptions tiny_options(Preset preset) {
  TrainOptions o = preset_options(preset);
  if (o.width != 0) o.width = 16;
  if (o.scheme == LevelScheme::kUniversal) o.num_levels = 4;
  o.min_bpw = 2;
  o.max_bpw = 5;
  o.steps = 40;
  o.batch = 64;
  o.warmup = 4;
  o.learning_rate = 2e-3;
  o.eval_every = 20;
  o.freeze_chunks = 65536;
  return o;
}

inline std::vector<uint8_t> file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::vector<std::string> file_lines(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// A folder of its own for every test, removed afterwards.
class TrainTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() / (std::string("nwc_train_") + info->test_suite_name() + "_" +
                                                        info->name() + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

 private:
  std::filesystem::path folder_;
};

}  // namespace nwc
