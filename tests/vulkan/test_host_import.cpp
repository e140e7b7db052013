// The host's memory as a source of copies: pages of the heap and of a file that is mapped read-only, from any byte on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "runtime/decoder/vulkan/device_product.h"
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
  const std::string path = ::testing::TempDir() + "nwc_host_import_" + std::to_string(getpid());
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), 70001);
  const int file = open(path.c_str(), O_RDONLY);
  ASSERT_GE(file, 0);
  std::filesystem::remove(path);
  void* const map = mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, file, 0);
  ASSERT_NE(map, MAP_FAILED);
  close(file);
  for (const auto& [from, size] : std::vector<std::pair<size_t, size_t>>{{0, 70001}, {69999, 2}, {4097, 60000}}) {
    const uint8_t* view = static_cast<const uint8_t*>(map) + from;
    uint64_t offset = 0;
    const Status status = DeviceBuffer::import_host(*device_, {view, size}, &offset).status();
    if (!status.ok()) GTEST_SKIP() << "this driver takes no pages of a file: " << status.message();
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(from);
    EXPECT_EQ(through_device({view, size}), std::vector<uint8_t>(begin, begin + static_cast<std::ptrdiff_t>(size)));
  }
  munmap(map, bytes.size());
}

/// y = W x with tensors of a file that lies in memory.
class ProductImport : public HostImport {
 protected:
  static constexpr uint64_t kRows = 150, kCols = 300;

  void SetUp() override {
    HostImport::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const CodecRecord codec = testing::random_codec({3, 6});
    const std::vector<uint8_t> bytes =
        testing::model_file(codec, {testing::coded_tensor(codec, {"first", kRows, kCols, 32, 64, true, 1}),
                                    testing::coded_tensor(codec, {"second", kRows, kCols, 64, 128, false, 2})});
    auto file = NwcFile::open(make_owned_reader(bytes));
    ASSERT_TRUE(file.ok()) << file.status().message();
    file_ = std::move(file).value();
  }
  std::vector<float> products(const std::string& disabled) {
    VulkanOptions options;
    options.validation = true;
    options.disabled_features = disabled;
    auto decoder = VulkanDecoder::create(*file_, *runner_, options, log_.logger());
    EXPECT_TRUE(decoder.ok()) << decoder.status().message();
    auto product = VulkanFusedProduct::create(**decoder);
    EXPECT_TRUE(product.ok()) << product.status().message();
    VulkanDevice& device = (*decoder)->device();
    auto x = DeviceBuffer::create(device, kCols * 4, MemoryKind::kUpload);
    auto y = DeviceBuffer::create(device, 2 * kRows * 4, MemoryKind::kReadback);
    auto batch = CommandBatch::create(device, (*decoder)->pipelines());
    for (uint64_t i = 0; i < kCols; ++i) store_le(x->mapped().data() + 4 * i, static_cast<float>(i % 7) - 3.0f);
    EXPECT_TRUE(x->flush().ok() && (*batch)->begin().ok());
    std::vector<VulkanFusedProduct::Product> list;
    for (size_t tensor = 0; tensor < 2; ++tensor) {
      const Status status = (*product)->load(tensor);
      EXPECT_TRUE(status.ok()) << status.message();
      list.push_back({tensor, 1, &*x, kCols, {&*y, tensor * kRows * 4, kRows * 4}, kRows, false});
    }
    EXPECT_TRUE((*product)->record(**batch, list).ok());
    EXPECT_TRUE((*batch)->submit_and_wait().ok() && y->invalidate().ok());
    std::vector<float> out(2 * kRows);
    std::memcpy(out.data(), y->mapped().data(), out.size() * 4);
    return out;
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  std::unique_ptr<NwcFile> file_;
};

TEST_F(ProductImport, PayloadsNeedNoCopyOfTheHost) {
  const std::vector<float> copied = products("host_import");
  EXPECT_EQ(faulty_vulkan()->imports, 0u);
  EXPECT_NE(copied, std::vector<float>(2 * kRows));
  EXPECT_EQ(products(""), copied);
  if (log_.mentions("it is copied")) GTEST_SKIP() << "this driver takes no pages of a file";
  EXPECT_EQ(faulty_vulkan()->imports, imports() ? 2u : 0u) << "one a tensor";
}

TEST_F(ProductImport, ADeviceThatRefusesGetsACopy) {
  if (!imports()) GTEST_SKIP() << "no host_import";
  const std::vector<float> imported = products("");
  faulty_vulkan()->imports_fail = true;
  log_.all.clear();
  EXPECT_EQ(products(""), imported);
  const auto lines = std::count_if(log_.all.begin(), log_.all.end(), [](const std::string& line) {
    return line.find("does not read the file where it is mapped") != std::string::npos;
  });
  EXPECT_EQ(lines, 1) << "it is not asked again";
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
