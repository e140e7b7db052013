// Every way through the rANS kernels, forced: words dealt by ballots or by masks, 16-bit storage or pairs, the stream
// staged or not, one or several tiles to a workgroup, the identity or a matrix. All give the scalar decoder's values,
// and weights within the format's tolerance.
#include <gtest/gtest.h>

#include "runtime/base/half.h"
#include "tests/codec/reference_encoder.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using Variant = VulkanOptions::Variant;

struct Way {
  const char* name;
  Variant variant;
  bool storage16;
  int staging;
  uint32_t tiles;
  Dtype dtype;
};
constexpr Way kWays[] = {
    {"ballot, f32", Variant::kBallot, true, 0, 1, Dtype::kF32},
    {"ballot, f16 one by one", Variant::kBallot, true, 0, 1, Dtype::kF16},
    {"ballot, bf16 in pairs, staged, 3 tiles", Variant::kBallot, false, 1, 3, Dtype::kBf16},
    {"ballot, bf16 one by one, staged", Variant::kBallot, true, 1, 1, Dtype::kBf16},
    {"shared, f32, staged", Variant::kShared, true, 1, 1, Dtype::kF32},
    {"shared, bf16 one by one", Variant::kShared, true, 0, 1, Dtype::kBf16},
    {"shared, f16 in pairs", Variant::kShared, false, 0, 1, Dtype::kF16},
};

class KernelVariants : public ::testing::Test {
 protected:
  void open(std::vector<uint8_t> bytes) {
    file_ = testing::open_bytes(std::move(bytes));
    ASSERT_NE(file_, nullptr);
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    values_.resize(ceil_div(record().rows(), kChunk) * record().cols() * kChunk);
    ASSERT_TRUE((*cpu)->decode_values(0, values_).ok());
  }
  Status start(const Way& way) {
    VulkanOptions options;
    options.validation = true;
    options.variant = way.variant;
    options.stream_staging = way.staging;
    options.tiles_per_workgroup = way.tiles;
    if (!way.storage16) options.disabled_features = "storage16";
    vulkan_.reset();
    NWC_ASSIGN_OR_RETURN(vulkan_, VulkanDecoder::create(*file_, *runner_, options, log_.logger()));
    return {};
  }
  void TearDown() override {
    vulkan_.reset();
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
    EXPECT_FALSE(log_.mentions("quarantined"));
  }
  const TensorRecord& record() const { return file_->tensors()[0]; }

  template <typename T>
  std::vector<T> rows(uint64_t begin, uint64_t end, Dtype dtype) {
    std::vector<T> out((end - begin) * record().cols());
    DecodeRequest request;
    request.row_begin = begin;
    request.row_end = end;
    request.dtype = dtype;
    request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(T)};
    const Status status = vulkan_->decode(request);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }
  void check(uint64_t begin, uint64_t end, Dtype dtype) {
    std::vector<int16_t> got(values_.size(), -1);
    const Status status = vulkan_->decode_values(0, got);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(got, values_);
    if (dtype == Dtype::kF32) {
      testing::expect_weights_agree(*file_, 0, values_, begin, end, rows<float>(begin, end, dtype));
      return;
    }
    std::vector<float> weights;
    for (const uint16_t half : rows<uint16_t>(begin, end, dtype)) {
      weights.push_back(dtype == Dtype::kF16 ? f16_to_f32(half) : bf16_to_f32(half));
    }
    testing::expect_weights_agree(*file_, 0, values_, begin, end, weights, dtype == Dtype::kF16 ? 0x1p-11f : 0x1p-8f);
  }

  /// All ways through the tensor.
  void check_ways(uint64_t begin, uint64_t end) {
    for (const Way& way : kWays) {
      SCOPED_TRACE(way.name);
      const Status status = start(way);
      if (way.variant == Variant::kBallot && status.code() == StatusCode::kNoDevice) continue;  // has no ballots
      NWC_NEED_DEVICE(status);
      check(begin, end, way.dtype);
      if (HasFailure()) return;
    }
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  testing::LogLines log_;
  std::unique_ptr<NwcFile> file_;
  std::vector<int16_t> values_;
  std::unique_ptr<VulkanDecoder> vulkan_;
};

TEST_F(KernelVariants, MatrixAndRawBits) {
  const CodecRecord codec = testing::random_codec({3, 6});
  open(testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 90, 134, 32, 64, true})}));
  check_ways(5, 83);
}

TEST_F(KernelVariants, Identity) {
  CodecRecord codec = testing::random_codec({4, 20, 0, 0, Activation::kNone, false, false});
  for (size_t i = 0; i < codec.synthesis.skip_weight.size(); ++i)
    codec.synthesis.skip_weight[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
  open(testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 50, 70, 48, 32})}));
  check_ways(0, 50);
}

TEST_F(KernelVariants, TrellisAndRowClasses) {
  reference::CodecOptions options;
  options.trellis_bits = 8;
  options.row_classes = true;
  options.tables = 9;
  options.max_raw_bits = 3;
  const CodecRecord codec = reference::make_codec(options, 1);
  reference::TensorOptions shape{"coded", {61, 300}, 32, 256, true};
  shape.row_classes = shape.free_states = true;
  std::vector<reference::TestTensor> tensors = {reference::make_tensor(codec, shape, 2)};
  open(reference::make_file(codec, &tensors));
  check_ways(0, 61);
}

// Fewer tables than the known tiles have: the kernel has room for theirs, and TearDown sees that none was given up.
TEST_F(KernelVariants, OneTable) {
  const CodecRecord codec = testing::random_codec({1, 1});
  open(testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 40, 66, 32, 64})}));
  for (const Way& way : {kWays[1], kWays[6]}) {
    SCOPED_TRACE(way.name);
    const Status status = start(way);
    if (way.variant == Variant::kBallot && status.code() == StatusCode::kNoDevice) continue;
    NWC_NEED_DEVICE(status);
    check(0, 40, way.dtype);
  }
}

}  // namespace
}  // namespace nwc
