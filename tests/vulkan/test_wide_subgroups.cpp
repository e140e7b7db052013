// Subgroups of 64 and 128, which decode two and four tiles together. No device at hand has them: a workgroup passes for
// one (shaders/common/emulated_subgroup.glsl), whose kernels a loader of ours puts in place of the library's.
#include <gtest/gtest.h>

#include "runtime/base/half.h"
#include "tests/vulkan/faulty_vulkan.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

#include "shaders/emulated_decode_ballot.spv.h"
#include "shaders/emulated_decode_ballot16.spv.h"
#include "shaders/emulated_product_ballot.spv.h"

FaultyVulkan::Swap swap_of(ShaderId from, std::span<const uint32_t> to) {
  const std::span<const uint32_t> code = shader_code(from);
  return {code.data(), to.data(), static_cast<uint32_t>(code.size_bytes()), static_cast<uint32_t>(to.size_bytes())};
}

class WideSubgroups : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("NWC_VULKAN_DISABLE") != nullptr) GTEST_SKIP() << "without features there are no ballots";
    const char* const width = std::getenv("LP_NATIVE_VECTOR_WIDTH");
    if (width != nullptr && std::string(width) != "256")
      GTEST_SKIP() << "the size of software's vectors has no part in it";
    const CodecRecord codec = testing::random_codec({3, 6});
    // 3 x 3 tiles, of which those at the edges are smaller, and with which no subgroup comes out even.
    file_ = testing::open_bytes(
        testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 90, 134, 32, 64, true})}));
    ASSERT_NE(file_, nullptr);
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    values_.resize(ceil_div(kRows, kChunk) * kCols * kChunk);
    ASSERT_TRUE((*cpu)->decode_values(0, values_).ok());
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    reset_faulty_vulkan();
    faulty_vulkan()->swaps[0] = swap_of(ShaderId::kRansBallot, emulated_decode_ballot_spv);
    faulty_vulkan()->swaps[1] = swap_of(ShaderId::kRansBallot16, emulated_decode_ballot16_spv);
    faulty_vulkan()->swaps[2] = swap_of(ShaderId::kProductBallot, emulated_product_ballot_spv);
  }
  void TearDown() override {
    vulkan_.reset();
    unsetenv("NWC_VULKAN_LIBRARY");
    reset_faulty_vulkan();
    for (const std::string& line : log_.warnings) ADD_FAILURE() << line;
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
  }
  Status start(uint32_t subgroup_size, int staging, const char* disabled) {
    faulty_vulkan()->subgroup_size = subgroup_size;
    VulkanOptions options;
    options.validation = true;
    options.variant = VulkanOptions::Variant::kBallot;
    options.stream_staging = staging;
    options.disabled_features = disabled;
    vulkan_.reset();
    NWC_ASSIGN_OR_RETURN(vulkan_, VulkanDecoder::create(*file_, *runner_, options, log_.logger()));
    return {};
  }
  void check(uint64_t begin, uint64_t end, Dtype dtype) {
    std::vector<int16_t> got(values_.size(), -1);
    Status status = vulkan_->decode_values(0, got);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(got, values_);
    std::vector<uint8_t> bytes((end - begin) * kCols * dtype_size(dtype));
    DecodeRequest request;
    request.row_begin = begin;
    request.row_end = end;
    request.dtype = dtype;
    request.out = bytes;
    status = vulkan_->decode(request);
    ASSERT_TRUE(status.ok()) << status.message();
    std::vector<float> weights(bytes.size() / dtype_size(dtype));
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = dtype == Dtype::kF32 ? load_le<float>(&bytes[4 * i]) : f16_to_f32(load_le<uint16_t>(&bytes[2 * i]));
    }
    testing::expect_weights_agree(*file_, 0, values_, begin, end, weights, dtype == Dtype::kF16 ? 0x1p-11f : 0);
  }

  static constexpr uint64_t kRows = 90, kCols = 134;
  const std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  testing::LogLines log_;
  std::unique_ptr<NwcFile> file_;
  std::vector<int16_t> values_;
  std::unique_ptr<VulkanDecoder> vulkan_;
};

TEST_F(WideSubgroups, DecodeSeveralTilesTogether) {
  struct Way {
    uint32_t size;
    int staging;
    const char* disabled;
    Dtype dtype;
  };
  for (const auto& [size, staging, disabled, dtype] :
       {Way{64, 1, "size_control,storage16", Dtype::kF16}, Way{64, 0, "size_control", Dtype::kF16},
        Way{128, 1, "size_control", Dtype::kF32}}) {
    SCOPED_TRACE("subgroups of " + std::to_string(size) + ", without " + disabled);
    const Status status = start(size, staging, disabled);
    NWC_NEED_DEVICE(status);
    EXPECT_EQ(vulkan_->device_info().subgroup_size, size);
    check(5, 83, dtype);
    EXPECT_GE(faulty_vulkan()->swapped, 1u);
  }
  // A product's kernel, on the known tile.
  const auto variant = vulkan_->context().self_test->choose(1, Consumer::kProduct, 2);
  ASSERT_TRUE(variant.has_value());
  EXPECT_TRUE(variant->ballot);
}

// Of two tiles of a subgroup one is damaged: it is said of that one, and the other is decoded.
TEST_F(WideSubgroups, DamageIsOneTiles) {
  const auto coded = file_->load_coded(0, true);
  ASSERT_TRUE(coded.ok());
  std::vector<uint8_t> bytes(file_->reader().size());
  ASSERT_TRUE(file_->reader().read(0, bytes).ok());
  bytes[coded->tiles[4].offset + coded->tiles[4].size / 2] ^= 1;
  file_ = testing::open_bytes(std::move(bytes));
  ASSERT_NE(file_, nullptr);
  NWC_NEED_DEVICE(start(64, 1, "size_control"));
  std::vector<uint8_t> out(kRows * kCols * 4);
  DecodeRequest request;
  request.row_end = kRows;
  request.dtype = Dtype::kF32;
  request.out = out;
  request.check_crc = false;
  const Status status = vulkan_->decode(request);
  EXPECT_EQ(status.message().rfind("coded, tile 4", 0), 0u) << status.message();
}

}  // namespace
}  // namespace nwc
