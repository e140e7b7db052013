#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "tests/data/temp_dir.h"
#include "trainer/calib/calibration_cache.h"

namespace nwc::test {
namespace {

namespace fs = std::filesystem;

std::string hash(char digit) { return std::string(16, digit); }

/// A finished calibration of `bytes` bytes that was last used `hours` ago.
void make(const fs::path& root, char digit, size_t bytes, int hours) {
  const fs::path folder = root / hash(digit);
  fs::create_directories(folder);
  std::ofstream(folder / "calibration.json") << std::string(bytes, 'x');
  std::ofstream(folder / "lock") << "";
  fs::last_write_time(folder / "lock", fs::file_time_type::clock::now() - std::chrono::hours(hours));
}

TEST(CalibrationCache, KeepsWhatWasUsedLastWithinItsSize) {
  TempDir dir;
  const fs::path root = dir.file("cache");
  make(root, '1', 1000, 3);
  make(root, '2', 1000, 1);
  make(root, '3', 1000, 2);
  fs::create_directories(root / "not-a-hash");
  std::ofstream(root / "not-a-hash" / "file") << std::string(5000, 'x');
  fs::create_directories(root / hash('f'));  // of another program: it has no lock
  CalibrationCache cache(root.string(), 2500);
  const Result<std::string> folder = cache.enter(hash('4'), {});
  ASSERT_TRUE(folder.ok()) << folder.status().message();
  EXPECT_EQ(*folder, (root / hash('4')).string());
  std::ofstream(*folder + "/layer-0.safetensors") << std::string(400, 'x');
  EXPECT_EQ(cache.folder_bytes(), 400u);
  cache.trim({});
  EXPECT_FALSE(fs::exists(root / hash('1')));
  for (const char digit : {'2', '3', '4', 'f'}) EXPECT_TRUE(fs::exists(root / hash(digit))) << digit;
  EXPECT_TRUE(fs::exists(root / "not-a-hash" / "file"));
}

TEST(CalibrationCache, WhatIsInUseStays) {
  TempDir dir;
  const fs::path root = dir.file("cache");
  make(root, '1', 1000, 3);
  CalibrationCache user(root.string(), 0);
  ASSERT_TRUE(user.enter(hash('1'), {}).ok());
  CalibrationCache other(root.string(), 0);
  ASSERT_TRUE(other.enter(hash('2'), {}).ok());
  other.trim({});
  EXPECT_TRUE(fs::exists(root / hash('1')));
  EXPECT_TRUE(fs::exists(root / hash('2')));
}

TEST(CalibrationCache, OneProcessMakesACalibrationAndTheOthersWait) {
  TempDir dir;
  const std::string root = dir.file("cache");
  CalibrationCache maker(root, 1 << 20);
  ASSERT_TRUE(maker.enter(hash('a'), {}).ok());
  int asked = 0;
  const Progress give_up{[](void* user, uint64_t, uint64_t) { return ++*static_cast<int*>(user) < 2; }, &asked};
  {
    CalibrationCache waiting(root, 1 << 20);
    const Result<std::string> entered = waiting.enter(hash('a'), give_up);
    ASSERT_FALSE(entered.ok());
    EXPECT_EQ(entered.status().code(), StatusCode::kCancelled);
    EXPECT_EQ(asked, 2);
  }
  std::ofstream(maker.folder() + "/calibration.json") << "{}";
  maker.share();
  CalibrationCache reader(root, 1 << 20);
  EXPECT_TRUE(reader.enter(hash('a'), {}).ok());
}

}  // namespace
}  // namespace nwc::test
