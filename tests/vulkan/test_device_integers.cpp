// Coded tensors to integers in a device's memory: they are those that the CPU decodes to, whatever the windows.
#include <gtest/gtest.h>

#include <map>

#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using testing::CodecSpec;
using testing::LogLines;

class DeviceIntegersTest : public ::testing::Test {
 protected:
  void open() {
    CodecRecord codec = testing::random_codec({3, 6});
    // The identity: of other codecs the weights are not the integers.
    std::vector<float>& skip = codec.synthesis.skip_weight;
    for (size_t i = 0; i < skip.size(); ++i) skip[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
    codec.codec_id = compute_codec_id(codec);
    bytes_ = testing::model_file(codec, {testing::coded_tensor(codec, {"first", 70, 133, 32, 64, true, 1}),
                                         testing::coded_tensor(codec, {"second", 19, 64, 16, 32, false, 2}),
                                         testing::coded_tensor(codec, {"third", 128, 130, 64, 64, true, 3})});
    auto file = NwcFile::open(make_memory_reader(bytes_));
    ASSERT_TRUE(file.ok()) << file.status().message();
    file_ = std::move(file).value();
  }
  Status start(VulkanOptions options) {
    options.validation = true;
    vulkan_.reset();
    NWC_ASSIGN_OR_RETURN(vulkan_, VulkanDecoder::create(*file_, *runner_, options, log_.logger()));
    return {};
  }
  void TearDown() override {
    vulkan_.reset();
    unsetenv("NWC_VULKAN_LIBRARY");
    reset_faulty_vulkan();
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
  }

  /// bits 0: what suits the tensor; to 4: so few that there are outliers in all places; kBytes: 8 everywhere.
  static constexpr uint32_t kBytes = 8;
  IntegerForm form(size_t tensor, uint32_t bits) const {
    IntegerForm f = std::move(IntegerForms(*file_).choose(tensor, IntegerWeights::kPacked, true).value());
    if (bits == 0) return f;
    for (size_t u = 0; u < f.bits.size(); ++u)
      f.bits[u] = bits == kBytes ? 8 : kIntegerBits[(bits + u) % std::size(kIntegerBits)];
    f.max_outliers = bits == kBytes ? 6000 : 20 * f.rows * f.cols;  // a value of 16 bits can be as many
    f.place_parts();
    return f;
  }

  /// All tensors at once, one after another in one buffer.
  Status on_device(const std::vector<IntegerForm>& forms, std::vector<std::vector<uint8_t>>* out) {
    std::vector<uint64_t> at;
    uint64_t end = 64;
    for (const IntegerForm& f : forms) {
      at.push_back(end);
      end += DeviceForm(f).bytes;
    }
    VulkanDevice& device = vulkan_->device();
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer buffer, DeviceBuffer::create(device, end, MemoryKind::kDevice));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer readback, DeviceBuffer::create(device, end, MemoryKind::kReadback));
    NWC_ASSIGN_OR_RETURN(const auto batch, CommandBatch::create(device, vulkan_->pipelines()));
    std::vector<DeviceIntegerRequest> requests;
    for (size_t i = 0; i < forms.size(); ++i)
      requests.push_back({i, &forms[i], {&buffer, at[i], DeviceForm(forms[i]).bytes}});
    NWC_TRY(vulkan_->integers_to_device(requests));
    NWC_TRY(batch->begin());
    batch->copy(buffer, 0, readback, 0, end);
    batch->barrier();
    NWC_TRY(batch->submit_and_wait());
    NWC_TRY(readback.invalidate());
    out->clear();
    for (size_t i = 0; i < forms.size(); ++i) {
      const auto begin = readback.mapped().begin() + static_cast<std::ptrdiff_t>(at[i]);
      out->emplace_back(begin, begin + static_cast<std::ptrdiff_t>(DeviceForm(forms[i]).bytes));
    }
    return {};
  }
  std::vector<uint8_t> on_cpu(size_t tensor, const IntegerForm& f) {
    std::vector<uint8_t> out(f.bytes);
    IntegerRequest request;
    request.tensor = tensor;
    request.form = &f;
    request.row_end = f.rows;
    request.out = out;
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    const Status status = cpu.ok() ? (*cpu)->decode_integers({&request, 1}) : cpu.status();
    // The CPU's products could not add up all of these values, which lie in place nevertheless.
    const bool too_large = status.message().find("too large to be added up exactly") != std::string::npos;
    EXPECT_TRUE(status.ok() || too_large) << status.message();
    return out;
  }
  /// What outliers add to (row, column).
  static std::map<std::pair<uint64_t, uint32_t>, int32_t> outliers(const IntegerForm& f, const uint8_t* data,
                                                                   bool device) {
    std::map<std::pair<uint64_t, uint32_t>, int32_t> sums;
    for (uint64_t block = 0; block < f.row_blocks(); ++block) {
      const uint64_t at = device ? DeviceForm(f).ranges_at + 8 * block : f.begin_at + 4 * block;
      const uint32_t begin = load_le<uint32_t>(data + at), end = load_le<uint32_t>(data + at + 4);
      EXPECT_LE(begin, end);
      EXPECT_LE(end, f.max_outliers);
      for (uint32_t i = begin; i < end; ++i) {
        Outlier o;
        std::memcpy(&o, data + f.outliers_at + i * sizeof o, sizeof o);
        sums[{block * kChunk + o.row(), o.column()}] += o.rest();
      }
    }
    return sums;
  }
  void expect_same(const std::vector<IntegerForm>& forms, const std::vector<std::vector<uint8_t>>& got) {
    for (size_t i = 0; i < forms.size(); ++i) {
      SCOPED_TRACE("tensor " + std::to_string(i));
      const IntegerForm& f = forms[i];
      const std::vector<uint8_t> want = on_cpu(i, f);
      EXPECT_TRUE(std::equal(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(f.begin_at), got[i].begin()))
          << "units and scales";
      EXPECT_EQ(outliers(f, got[i].data(), true), outliers(f, want.data(), false));
    }
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  LogLines log_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<NwcFile> file_;
  std::unique_ptr<VulkanDecoder> vulkan_;
};

TEST_F(DeviceIntegersTest, AreThoseOfTheCpu) {
  open();
  if (HasFatalFailure()) return;
  // Windows of a tile, of some tiles, of everything; and results that no binding can hold at once.
  for (const auto& [window, range] :
       {std::pair{uint64_t{1}, UINT64_MAX}, std::pair{uint64_t{1} << 16, UINT64_MAX},
        std::pair{uint64_t{64} << 20, UINT64_MAX}, std::pair{uint64_t{1} << 16, uint64_t{1} << 15}}) {
    SCOPED_TRACE("windows of " + std::to_string(window) + ", bindings of " + std::to_string(range));
    VulkanOptions options;
    options.max_window_bytes = window;
    options.storage_range_limit = range;
    NWC_NEED_DEVICE(start(options));
    for (const uint32_t bits : {0u, 1u, 2u, 3u, 4u, kBytes}) {
      if (range != UINT64_MAX && bits != kBytes) continue;  // the room for outliers would be too much for a binding
      SCOPED_TRACE("bits from " + std::to_string(bits));
      const std::vector<IntegerForm> forms = {form(0, bits), form(1, bits), form(2, bits)};
      std::vector<std::vector<uint8_t>> got;
      const Status status = on_device(forms, &got);
      ASSERT_TRUE(status.ok()) << status.message();
      expect_same(forms, got);
      EXPECT_TRUE(bits != 1 || !outliers(forms[0], got[0].data(), true).empty());
    }
    const uint64_t held = vulkan_->device_bytes() + vulkan_->host_bytes();
    EXPECT_LE(held,
              VulkanDecoder::max_scratch_bytes(*file_, options) + VulkanDecoder::max_integer_bytes(*file_, options));
  }
}

// On a device with several queues, here one that only says so: windows are decoded on two of their own, values are
// packed on one of those, and the caller's work is on another.
TEST_F(DeviceIntegersTest, OnQueuesOfTheirOwn) {
  open();
  if (std::getenv("NWC_VULKAN_DISABLE") != nullptr) GTEST_SKIP() << "without features there is one queue";
  setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
  for (const bool second_family : {false, true}) {
    SCOPED_TRACE(second_family ? "in a second family" : "in one family");
    reset_faulty_vulkan();
    faulty_vulkan()->queues = 3;
    faulty_vulkan()->second_family = second_family;
    VulkanOptions options;
    options.max_window_bytes = 1 << 16;
    NWC_NEED_DEVICE(start(options));
    EXPECT_EQ(vulkan_->device_info().decode_queues.size(), kDecodeQueues);
    const std::vector<IntegerForm> forms = {form(0, 0), form(1, 0), form(2, 0)};
    std::vector<std::vector<uint8_t>> got;
    const Status status = on_device(forms, &got);
    ASSERT_TRUE(status.ok()) << status.message();
    expect_same(forms, got);
    const uint32_t* const submits = faulty_vulkan()->made_up_submits;
    if (submits[0] + submits[1] == 0) continue;  // the device has so many
    EXPECT_EQ(vulkan_->device().families().size(), second_family ? 2u : 1u);
    EXPECT_GT(submits[0], 1u);
    EXPECT_GT(submits[1], 1u);
    EXPECT_GT(faulty_vulkan()->submits, submits[0] + submits[1]) << "there is work of others";
  }
}

TEST_F(DeviceIntegersTest, TooManyOutliersAreAnError) {
  open();
  NWC_NEED_DEVICE(start({}));
  std::vector<IntegerForm> forms = {form(0, 1), form(1, 1), form(2, 1)};
  forms[1].max_outliers = 3;
  std::vector<std::vector<uint8_t>> got;
  const Status status = on_device(forms, &got);
  EXPECT_EQ(status.code(), StatusCode::kLimit);
  EXPECT_NE(status.message().find("second"), std::string::npos) << status.message();
  forms[1] = form(1, 1);
  ASSERT_TRUE(on_device(forms, &got).ok()) << "the next call is not affected";
  expect_same(forms, got);
}

TEST_F(DeviceIntegersTest, DamageIsReported) {
  open();
  NWC_NEED_DEVICE(start({}));
  const auto coded = file_->load_coded(2, true);
  ASSERT_TRUE(coded.ok());
  bytes_[coded->tiles[3].offset + coded->tiles[3].size / 2] ^= 1;
  const std::vector<IntegerForm> forms = {form(0, 0), form(1, 0), form(2, 0)};
  std::vector<std::vector<uint8_t>> got;
  const Status status = on_device(forms, &got);
  EXPECT_EQ(status.code(), StatusCode::kChecksum);
  EXPECT_EQ(status.message().rfind("third, tile 3", 0), 0u) << status.message();
}

TEST_F(DeviceIntegersTest, BadRequests) {
  open();
  NWC_NEED_DEVICE(start({}));
  const IntegerForm good_form = form(0, 0), other = form(1, 0);
  const uint64_t bytes = DeviceForm(good_form).bytes;
  auto buffer = DeviceBuffer::create(vulkan_->device(), bytes, MemoryKind::kDevice);
  ASSERT_TRUE(buffer.ok());
  const DeviceIntegerRequest good{0, &good_form, &*buffer};
  EXPECT_TRUE(vulkan_->integers_to_device({&good, 1}).ok());
  EXPECT_TRUE(vulkan_->integers_to_device({}).ok());
  const auto code = [&](auto&& change) {
    DeviceIntegerRequest bad = good;
    change(bad);
    return vulkan_->integers_to_device({&bad, 1}).code();
  };
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.tensor = 3; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([&](DeviceIntegerRequest& r) { r.form = &other; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.form = nullptr; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.out = {}; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.out.offset = 4; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.out.offset = 64; }), StatusCode::kBufferTooSmall);
  EXPECT_EQ(code([](DeviceIntegerRequest& r) { r.out.size -= 4; }), StatusCode::kBufferTooSmall);
}

// Each kernel made to answer wrongly below the decoder: what arrives is right, or there is an error.
TEST_F(DeviceIntegersTest, WrongKernelsAreSeen) {
  open();
  NWC_NEED_DEVICE(start({}));
  vulkan_.reset();
  setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
  VulkanOptions options;
  uint32_t refused = 0;
  for (uint32_t number = 0;; ++number) {
    SCOPED_TRACE("kernel " + std::to_string(number));
    reset_faulty_vulkan();
    faulty_vulkan()->hardware = true;
    faulty_vulkan()->damaged_modules = 1u << number;
    vulkan_.reset();
    auto made = VulkanDecoder::create(*file_, *runner_, options, log_.logger());
    const std::vector<IntegerForm> forms = {form(0, 1), form(1, 1), form(2, 1)};
    std::vector<std::vector<uint8_t>> got;
    Status status = made.status();
    if (made.ok()) {
      vulkan_ = std::move(made).value();
      status = on_device(forms, &got);
    }
    if (status.ok()) {
      expect_same(forms, got);
    } else {
      const StatusCode code = status.code();
      EXPECT_TRUE(code == StatusCode::kUnsupported || code == StatusCode::kNoDevice) << status.message();
      ++refused;
    }
    if (faulty_vulkan()->modules <= number) break;
  }
  EXPECT_GE(refused, 1u) << "the packing, for which there is no other kernel";
  log_.errors.clear();  // the decoder's own about kernels that it gave up
}

}  // namespace
}  // namespace nwc
