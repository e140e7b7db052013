// Compiled pipelines that stay between runs: who made the file, and whether it is whole, is found out before the driver
// sees a byte of it; whatever is wrong, the kernels are compiled anew and the file replaced.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "runtime/vulkan/pipeline.h"
#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kHeaderSize = 88, kDriverHeader = 32, kAdded = 1000;

class PipelineFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    unsetenv("NWC_VULKAN_DISABLE");
    reset_faulty_vulkan();
    faulty_vulkan()->cache_bytes = kAdded;
    std::string name = (fs::temp_directory_path() / "nwc-pipelines-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    directory_ = root_ / "cache";
    NWC_NEED_DEVICE(start());
  }
  void TearDown() override {
    device_.reset();
    fs::remove_all(root_);
    unsetenv("NWC_VULKAN_LIBRARY");
  }
  Status start(const std::string& disabled = "") {
    device_.reset();
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(false, log_.logger()));
    DeviceChoice choice;
    choice.disabled = disabled;
    NWC_ASSIGN_OR_RETURN(const DeviceInfo info, choose_device(*instance, choice));
    NWC_ASSIGN_OR_RETURN(device_, VulkanDevice::create(std::move(instance), info));
    path_ = PipelineFile(directory_.string(), info).path();
    return {};
  }
  /// A run that needs two kernels. Returns the bytes that the driver was given.
  uint64_t run() {
    log_.all.clear();
    faulty_vulkan()->cache_data_given = 0;
    const auto cache = PipelineCache::create(*device_, directory_.string());
    EXPECT_TRUE(cache.ok()) << cache.status().message();
    const uint64_t given = faulty_vulkan()->cache_data_given;
    EXPECT_TRUE((*cache)->get({ShaderId::kConvertHalf, {}, 0}).ok());
    EXPECT_TRUE((*cache)->get({ShaderId::kRansShared, {32, 4}, 0}).ok());
    return given;
  }
  std::string read_file() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write_file(const std::string& bytes) const {
    fs::create_directories(directory_);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }
  PipelineFile file() const { return PipelineFile(directory_.string(), device_->info()); }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()));
  }

  testing::LogLines log_;
  fs::path root_, directory_;
  std::string path_;
  std::unique_ptr<VulkanDevice> device_;
};

TEST_F(PipelineFiles, TheSecondRunGetsWhatTheFirstHasMade) {
  EXPECT_EQ(file().load().status().code(), StatusCode::kNotFound);
  EXPECT_EQ(run(), 0u);
  EXPECT_TRUE(log_.mentions("1032 bytes to " + path_));
  EXPECT_EQ(files(), 1u) << "no temporary file is left";
  EXPECT_EQ(read_file().size(), kHeaderSize + kDriverHeader + kAdded);
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(directory_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);

  ASSERT_TRUE(start().ok());
  EXPECT_EQ(run(), kDriverHeader + kAdded);
  EXPECT_TRUE(log_.mentions("1032 bytes from " + path_));
  EXPECT_EQ(files(), 1u);
}

TEST_F(PipelineFiles, TheDriversOwnDataServes) {
  faulty_vulkan()->cache_bytes = 0;  // software Vulkan keeps a header and nothing else
  EXPECT_EQ(run(), 0u);
  const auto data = file().load();
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_GE(data->size(), kDriverHeader);
  EXPECT_EQ(run(), data->size());
}

TEST_F(PipelineFiles, WhatIsWrittenAlreadyStays) {
  faulty_vulkan()->cache_bytes = 0;
  run();
  struct stat before, after;
  ASSERT_EQ(stat(path_.c_str(), &before), 0);
  run();
  ASSERT_EQ(stat(path_.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino) << "the same data is not written again";
}

TEST_F(PipelineFiles, SaveServesThoseThatNeverEnd) {
  const auto cache = PipelineCache::create(*device_, directory_.string());
  ASSERT_TRUE(cache.ok());
  (*cache)->save();
  EXPECT_FALSE(fs::exists(path_)) << "nothing has been compiled";
  ASSERT_TRUE((*cache)->get({ShaderId::kConvertHalf, {}, 0}).ok());
  (*cache)->save();
  EXPECT_TRUE(fs::exists(path_));
}

TEST_F(PipelineFiles, DamageIsSeenAndTheFileReplaced) {
  run();
  const std::string good = read_file();
  for (size_t at = 0; at < good.size(); at += at < kHeaderSize + kDriverHeader ? 1 : 97) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1 << at % 8);
    write_file(bad);
    const StatusCode code = file().load().status().code();
    const bool key = at >= 8 && at < 76;
    EXPECT_EQ(code, key ? StatusCode::kUnsupported : StatusCode::kCorrupt) << "byte " << at;
  }
  for (const size_t size : {size_t{0}, size_t{1}, size_t{87}, size_t{88}, size_t{90}, good.size() - 1}) {
    write_file(good.substr(0, size));
    EXPECT_EQ(file().load().status().code(), StatusCode::kCorrupt) << size << " bytes";
  }
  write_file(good + "x");
  EXPECT_EQ(file().load().status().code(), StatusCode::kCorrupt);

  EXPECT_EQ(run(), 0u) << "the driver gets nothing of it";
  EXPECT_TRUE(log_.mentions("compiled Vulkan kernels are made anew"));
  EXPECT_EQ(run(), kDriverHeader + kAdded) << "but what has replaced it";
}

TEST_F(PipelineFiles, AnotherDriversFileIsReplaced) {
  DeviceInfo older = device_->info();
  ++older.identity.driver_version;
  std::vector<uint8_t> data(kDriverHeader + 5, 1);
  ASSERT_EQ(mkdir(directory_.c_str(), 0700), 0);
  const PipelineFile other(directory_.string(), older);
  EXPECT_EQ(other.path(), path_) << "one file for a device, whatever drives it";
  ASSERT_TRUE(other.store(data).ok());
  EXPECT_EQ(other.load().status().code(), StatusCode::kCorrupt) << "not this driver's header";
  EXPECT_EQ(run(), 0u);
  EXPECT_TRUE(log_.mentions("made by another driver"));
  EXPECT_EQ(run(), kDriverHeader + kAdded);

  DeviceInfo wider = device_->info();
  wider.name += " (512 bits)";
  EXPECT_EQ(PipelineFile(directory_.string(), wider).load().status().code(), StatusCode::kUnsupported);
  DeviceInfo another = device_->info();
  another.identity.device_uuid[3] ^= 1;
  EXPECT_NE(PipelineFile(directory_.string(), another).path(), path_);
}

TEST_F(PipelineFiles, WhatIsNoFileOrTooLargeIsNotRead) {
  fs::create_directories(path_);
  EXPECT_EQ(file().load().status().code(), StatusCode::kIo);
  EXPECT_EQ(run(), 0u);
  EXPECT_TRUE(log_.mentions("a plain file is needed"));
  EXPECT_TRUE(log_.mentions("compiled Vulkan kernels are not kept"));
  EXPECT_EQ(files(), 1u) << "the temporary file is gone";
  fs::remove(path_);

  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(file().load().status().code(), StatusCode::kIo);
  fs::remove(path_);

  write_file("x");
  fs::resize_file(path_, kHeaderSize + PipelineFile::kMaxDataBytes + 1);
  EXPECT_EQ(file().load().status().code(), StatusCode::kCorrupt);
  const std::vector<uint8_t> large(PipelineFile::kMaxDataBytes + 1);
  EXPECT_EQ(file().store(large).code(), StatusCode::kLimit);
}

TEST_F(PipelineFiles, WithoutADirectoryTheKernelsAreCompiled) {
  directory_ = root_ / "missing" / "cache";
  EXPECT_EQ(run(), 0u);
  EXPECT_TRUE(log_.mentions("compiled Vulkan kernels are not kept"));
  EXPECT_FALSE(fs::exists(directory_.parent_path()));
  directory_.clear();
  faulty_vulkan()->caches = 0;
  run();
  EXPECT_EQ(faulty_vulkan()->caches, 0u) << "no directory, no cache";
}

TEST_F(PipelineFiles, SwitchedOffThereIsNone) {
  ASSERT_TRUE(start("pipeline_cache").ok());
  run();
  EXPECT_FALSE(fs::exists(directory_));
  EXPECT_EQ(faulty_vulkan()->caches, 0u);
}

TEST_F(PipelineFiles, ADriverMayRefuseItsOwnData) {
  run();
  faulty_vulkan()->cache_data_fails = true;
  EXPECT_EQ(run(), 0u);
  EXPECT_FALSE(log_.mentions("not kept"));
}

}  // namespace
}  // namespace nwc
