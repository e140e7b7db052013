// The host's memory as a source of copies: pages of the heap and of a file that is mapped read-only, from any byte on.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/vulkan/submit.h"
#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

class HostImport : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    reset_faulty_vulkan();
    NWC_NEED_DEVICE(start());
  }
  void TearDown() override {
    unsetenv("NWC_VULKAN_LIBRARY");
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
  }
  Status start() {
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(true, log_.logger()));
    NWC_ASSIGN_OR_RETURN(const DeviceInfo info, choose_device(*instance, {}));
    NWC_ASSIGN_OR_RETURN(device_, VulkanDevice::create(std::move(instance), info));
    NWC_ASSIGN_OR_RETURN(pipelines_, PipelineCache::create(*device_));
    NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(*device_, *pipelines_));
    return {};
  }
  bool imports() const { return device_->info().host_import; }
  /// What the device finds in an import of these bytes.
  std::vector<uint8_t> through_device(Bytes bytes) {
    uint64_t offset = 0;
    auto imported = DeviceBuffer::import_host(*device_, bytes, &offset);
    EXPECT_TRUE(imported.ok()) << imported.status().message();
    auto back = DeviceBuffer::create(*device_, bytes.size(), MemoryKind::kReadback);
    if (!imported.ok() || !back.ok()) return {};
    EXPECT_LE(offset + bytes.size(), imported->size());
    EXPECT_TRUE(batch_->begin().ok());
    batch_->copy(*imported, offset, *back, 0, bytes.size());
    batch_->barrier();
    EXPECT_TRUE(batch_->submit_and_wait().ok());
    EXPECT_TRUE(back->invalidate().ok());
    const Bytes got = back->mapped().first(bytes.size());
    return {got.begin(), got.end()};
  }

  testing::LogLines log_;
  // In order of dependence: the device goes last.
  std::unique_ptr<VulkanDevice> device_;
  std::unique_ptr<PipelineCache> pipelines_;
  std::unique_ptr<CommandBatch> batch_;
};

std::vector<uint8_t> noise(size_t size) {
  testing::Random random;
  std::vector<uint8_t> bytes(size);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random.next());
  return bytes;
}

TEST_F(HostImport, AnyByteOfTheHeap) {
  if (!imports()) GTEST_SKIP() << "no host_import";
  const std::vector<uint8_t> bytes = noise(100000);
  for (const auto& [from, size] :
       std::vector<std::pair<size_t, size_t>>{{0, 100000}, {1, 1}, {4095, 2}, {33, 70001}, {99999, 1}, {50000, 4096}}) {
    const Bytes part = Bytes(bytes).subspan(from, size);
    EXPECT_EQ(through_device(part), std::vector<uint8_t>(part.begin(), part.end())) << from << " " << size;
  }
}

TEST_F(HostImport, AFileThatIsMappedReadOnly) {
  if (!imports()) GTEST_SKIP() << "no host_import";
  const std::vector<uint8_t> bytes = noise(70001);  // the last page is not full
  const std::string path = ::testing::TempDir() + "nwc_host_import";
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), 70001);
  auto reader = open_file_reader(path);
  ASSERT_TRUE(reader.ok());
  std::filesystem::remove(path);
  for (const auto& [from, size] : std::vector<std::pair<size_t, size_t>>{{0, 70001}, {69999, 2}, {4097, 60000}}) {
    const uint8_t* view = (*reader)->view(from, size);
    ASSERT_NE(view, nullptr);
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(from);
    EXPECT_EQ(through_device({view, size}), std::vector<uint8_t>(begin, begin + static_cast<std::ptrdiff_t>(size)));
  }
}

TEST_F(HostImport, WhatTheDeviceRefusesIsAnError) {
  const std::vector<uint8_t> bytes = noise(1000);
  uint64_t offset = 0;
  EXPECT_EQ(DeviceBuffer::import_host(*device_, {}, &offset).status().code(), StatusCode::kUnsupported);
  if (!imports()) {
    EXPECT_EQ(DeviceBuffer::import_host(*device_, bytes, &offset).status().code(), StatusCode::kUnsupported);
    return;
  }
  faulty_vulkan()->imports_fail = true;
  EXPECT_EQ(DeviceBuffer::import_host(*device_, bytes, &offset).status().code(), StatusCode::kDevice);
  faulty_vulkan()->imports_fail = false;
  device_->set_allocation_limit(100);
  EXPECT_EQ(DeviceBuffer::import_host(*device_, bytes, &offset).status().code(), StatusCode::kOutOfMemory);
}

}  // namespace
}  // namespace nwc
