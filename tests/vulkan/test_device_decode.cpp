// Many tensors at once to the device's memory: what arrives there is what decode() gives, damaged files give the same
// errors, and memory stays within the budget.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using testing::CodecSpec;
using testing::LogLines;
using testing::StoredTensor;

constexpr uint8_t kUntouched = 0xa5;

class DeviceDecode : public ::testing::Test {
 protected:
  /// Three coded tensors and two raw ones.
  void open(const CodecSpec& spec) {
    const CodecRecord codec = testing::random_codec(spec);
    const auto floats = [](uint64_t count) {
      ByteWriter writer;
      for (uint64_t i = 0; i < count; ++i) writer.write(0.37f * static_cast<float>(i % 1000) - 11.0f);
      return writer.take();
    };
    bytes_ = testing::model_file(codec, {testing::coded_tensor(codec, {"first", 70, 133, 32, 64, true, 1}),
                                         testing::raw_tensor("norm", Dtype::kF32, 1, 77, floats(77)),
                                         testing::coded_tensor(codec, {"second", 19, 64, 16, 32, false, 2}),
                                         testing::raw_tensor("large", Dtype::kF32, 300, 55, floats(300 * 55)),
                                         testing::coded_tensor(codec, {"third", 128, 130, 64, 64, true, 3})});
    auto file = NwcFile::open(make_memory_reader(bytes_));
    ASSERT_TRUE(file.ok()) << file.status().message();
    file_ = std::move(file).value();
  }
  Status start(VulkanOptions options = {}) {
    options.validation = true;
    vulkan_.reset();
    auto made = VulkanDecoder::create(*file_, *runner_, options, log_.logger());
    if (!made.ok()) return made.status();
    vulkan_ = std::move(made).value();
    return {};
  }
  void TearDown() override {
    vulkan_.reset();
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
  }

  struct Part {
    size_t tensor;
    uint64_t row_begin, row_end;
    Dtype dtype;
  };
  uint64_t part_bytes(const Part& part) const {
    return (part.row_end - part.row_begin) * file_->tensors()[part.tensor].cols() * dtype_size(part.dtype);
  }
  /// One after the other in one buffer, from multiples of 4 on, with a gap between them. Returns the buffer's bytes.
  Status decode(const std::vector<Part>& parts, std::vector<uint8_t>* out, const Progress& progress = {}) {
    VulkanDevice& device = vulkan_->device();
    std::vector<uint64_t> at;
    uint64_t end = 4;
    for (const Part& part : parts) {
      at.push_back(end);
      end = align_up(end + part_bytes(part) + 4, 4);
    }
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer buffer, DeviceBuffer::create(device, end, MemoryKind::kDevice));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer readback, DeviceBuffer::create(device, end, MemoryKind::kReadback));
    NWC_ASSIGN_OR_RETURN(const auto batch, CommandBatch::create(device, vulkan_->pipelines()));
    NWC_TRY(batch->begin());
    batch->fill(buffer, end, kUntouched * 0x01010101u);
    batch->barrier();
    NWC_TRY(batch->submit_and_wait());
    std::vector<DeviceDecodeRequest> requests;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& p = parts[i];
      requests.push_back({p.tensor, p.row_begin, p.row_end, p.dtype, {&buffer, at[i], part_bytes(p)}, true});
    }
    const Status status = vulkan_->decode_to_device(requests, progress);
    NWC_TRY(status);
    NWC_TRY(batch->begin());
    batch->copy(buffer, 0, readback, 0, end);
    batch->barrier();
    NWC_TRY(batch->submit_and_wait());
    NWC_TRY(readback.invalidate());
    out->assign(readback.mapped().begin(), readback.mapped().end());
    return {};
  }
  /// What decode() gives, in the same places; the gaps untouched.
  std::vector<uint8_t> expected(const std::vector<Part>& parts) {
    std::vector<uint8_t> out(4, kUntouched);
    for (const Part& part : parts) {
      DecodeRequest request;
      request.tensor = part.tensor;
      request.row_begin = part.row_begin;
      request.row_end = part.row_end;
      request.dtype = part.dtype;
      const size_t at = out.size();
      out.resize(align_up(at + part_bytes(part) + 4, 4), kUntouched);
      request.out = MutableBytes(out).subspan(at, part_bytes(part));
      const Status status = vulkan_->decode(request);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    return out;
  }
  uint64_t rows(size_t tensor) const { return file_->tensors()[tensor].rows(); }
  std::vector<Part> everything(Dtype dtype) const {
    std::vector<Part> parts;
    for (size_t t = 0; t < file_->tensors().size(); ++t) parts.push_back({t, 0, rows(t), dtype});
    return parts;
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  LogLines log_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<NwcFile> file_;
  std::unique_ptr<VulkanDecoder> vulkan_;
};

TEST_F(DeviceDecode, TensorsOfAllKinds) {
  for (const CodecSpec& spec : {CodecSpec{3, 6}, CodecSpec{3, 6, 48, 1, Activation::kSilu, true}}) {
    open(spec);
    if (HasFatalFailure()) return;
    for (const uint64_t window : {uint64_t{1}, uint64_t{1} << 18, uint64_t{64} << 20}) {
      SCOPED_TRACE("width " + std::to_string(spec.width) + ", windows of " + std::to_string(window));
      VulkanOptions options;
      options.max_window_bytes = window;
      NWC_NEED_DEVICE(start(options));
      std::vector<std::vector<Part>> cases = {everything(Dtype::kF32), everything(Dtype::kF16)};
      cases.push_back({{4, 3, 100, Dtype::kBf16},
                       {0, 33, 34, Dtype::kF16},
                       {3, 7, 290, Dtype::kF16},
                       {2, 19, 19, Dtype::kF32},
                       {0, 1, 70, Dtype::kF32},
                       {1, 0, 1, Dtype::kBf16}});
      for (const std::vector<Part>& parts : cases) {
        std::vector<uint8_t> got;
        const Status status = decode(parts, &got);
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(got, expected(parts));
      }
      const uint64_t held = vulkan_->device_bytes() + vulkan_->host_bytes();
      EXPECT_LE(held, VulkanDecoder::max_scratch_bytes(*file_, options));
      EXPECT_GT(held, 0u);
    }
  }
}

TEST_F(DeviceDecode, TheDeviceTakesTheTime) {
  open({3, 6});
  NWC_NEED_DEVICE(start());
  std::vector<uint8_t> got;
  ASSERT_TRUE(decode(everything(Dtype::kF16), &got).ok());
  EXPECT_EQ(vulkan_->last_device_seconds(), 0);
  vulkan_->set_timed(true);
  ASSERT_TRUE(decode(everything(Dtype::kF16), &got).ok());
  const auto copy = vulkan_->time_device_copy(1 << 20);
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  const bool has_clock = vulkan_->device_info().queue.timestamp_bits != 0;
  EXPECT_EQ(vulkan_->last_device_seconds() > 0, has_clock);
  EXPECT_EQ(*copy > 0, has_clock);
  EXPECT_EQ(got, expected(everything(Dtype::kF16)));
}

TEST_F(DeviceDecode, ProgressCountsTilesAndCancels) {
  open({3, 6});
  VulkanOptions options;
  options.max_window_bytes = 1;
  NWC_NEED_DEVICE(start(options));
  struct Seen {
    uint64_t calls = 0, done = 0, total = 0, stop_at = UINT64_MAX;
  } seen;
  const Progress progress{[](void* user, uint64_t done, uint64_t total) {
                            auto* s = static_cast<Seen*>(user);
                            EXPECT_GT(done, s->done);
                            *s = {s->calls + 1, done, total, s->stop_at};
                            return done < s->stop_at;
                          },
                          &seen};
  std::vector<uint8_t> got;
  ASSERT_TRUE(decode(everything(Dtype::kF16), &got, progress).ok());
  EXPECT_EQ(seen.total, 3u * 3 + 1 + 2 * 2 + 1 + 2 * 3);
  EXPECT_EQ(seen.done, seen.total);
  seen = {0, 0, 0, 5};
  EXPECT_EQ(decode(everything(Dtype::kF16), &got, progress).code(), StatusCode::kCancelled);
  EXPECT_LT(seen.done, seen.total);
}

TEST_F(DeviceDecode, DamageIsReportedAndForgotten) {
  open({3, 6});
  NWC_NEED_DEVICE(start());
  const std::vector<uint8_t> good = bytes_;
  const auto coded = file_->load_coded(4, true);
  ASSERT_TRUE(coded.ok());
  std::vector<uint8_t> got;
  bytes_[coded->tiles[3].offset + coded->tiles[3].size / 2] ^= 1;
  bytes_[coded->tiles[5].offset + coded->tiles[5].size / 2] ^= 1;
  const Status status = decode(everything(Dtype::kF16), &got);
  EXPECT_EQ(status.code(), StatusCode::kChecksum);
  EXPECT_EQ(status.message().rfind("third, tile 3", 0), 0u) << status.message();
  std::copy(good.begin(), good.end(), bytes_.begin());
  ASSERT_TRUE(decode(everything(Dtype::kF16), &got).ok());
  EXPECT_EQ(got, expected(everything(Dtype::kF16)));
}

TEST_F(DeviceDecode, BadRequests) {
  open({3, 6});
  NWC_NEED_DEVICE(start());
  auto buffer = DeviceBuffer::create(vulkan_->device(), 70 * 133 * 4, MemoryKind::kDevice);
  ASSERT_TRUE(buffer.ok());
  DeviceDecodeRequest good;
  good.row_end = 70;
  good.dtype = Dtype::kF32;
  good.out = &*buffer;
  EXPECT_TRUE(vulkan_->decode_to_device({&good, 1}).ok());
  EXPECT_TRUE(vulkan_->decode_to_device({}).ok());
  const auto code = [&](auto&& change) {
    DeviceDecodeRequest bad = good;
    change(bad);
    const DeviceDecodeRequest both[] = {good, bad};
    return vulkan_->decode_to_device(both).code();
  };
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.tensor = 5; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.row_end = 71; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.dtype = Dtype::kI8; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.out = {}; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.out.offset = 2; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.out.offset = 4; }), StatusCode::kBufferTooSmall);
  EXPECT_EQ(code([](DeviceDecodeRequest& r) { r.out.size -= 4; }), StatusCode::kBufferTooSmall);
}

}  // namespace
}  // namespace nwc
