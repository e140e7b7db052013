// The Vulkan decoder against the scalar CPU decoder, on whatever Vulkan device there is: values are equal, weights
// agree within the format's tolerance, damaged files give the same errors. Validation is on where it is installed.
#include <gtest/gtest.h>

#include "runtime/base/half.h"
#include "tests/codec/reference_encoder.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using testing::CodecSpec;
using testing::CodedSpec;
using testing::LogLines;

class VulkanDecode : public ::testing::Test {
 protected:
  void open(const CodecRecord& codec, const CodedSpec& spec) {
    file_ = testing::open_bytes(testing::model_file(codec, {testing::coded_tensor(codec, spec)}));
    ASSERT_NE(file_, nullptr);
    auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    ASSERT_TRUE(cpu.ok());
    cpu_ = std::move(cpu).value();
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

  const TensorRecord& record() const { return file_->tensors()[0]; }
  std::vector<int16_t> values(Decoder& decoder) {
    std::vector<int16_t> out(ceil_div(record().rows(), kChunk) * record().cols() * kChunk, -1);
    const Status status = decoder.decode_values(0, out);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }
  template <typename T>
  std::vector<T> rows(Decoder& decoder, uint64_t begin, uint64_t end, Dtype dtype) {
    std::vector<T> out((end - begin) * record().cols());
    DecodeRequest request;
    request.row_begin = begin;
    request.row_end = end;
    request.dtype = dtype;
    request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(T)};
    const Status status = decoder.decode(request);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }

  /// The tolerance of doc/format.md, section 5.5, weight by weight.
  void expect_weights_agree(uint64_t begin, uint64_t end) {
    const std::vector<float> got = rows<float>(*vulkan_, begin, end, Dtype::kF32);
    testing::expect_weights_agree(*file_, 0, values(*cpu_), begin, end, got);
  }
  /// f16 and bf16 are the device's f32, rounded.
  void expect_halves_follow(uint64_t begin, uint64_t end) {
    const std::vector<float> f32 = rows<float>(*vulkan_, begin, end, Dtype::kF32);
    const std::vector<uint16_t> f16 = rows<uint16_t>(*vulkan_, begin, end, Dtype::kF16);
    const std::vector<uint16_t> bf16 = rows<uint16_t>(*vulkan_, begin, end, Dtype::kBf16);
    for (size_t i = 0; i < f32.size(); ++i) {
      ASSERT_EQ(f16[i], f32_to_f16(f32[i])) << i;
      ASSERT_EQ(bf16[i], f32_to_bf16(f32[i])) << i;
    }
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  LogLines log_;
  std::unique_ptr<NwcFile> file_;
  std::unique_ptr<Decoder> cpu_;
  std::unique_ptr<VulkanDecoder> vulkan_;
};

VulkanOptions with_variant(VulkanOptions::Variant variant) {
  VulkanOptions options;
  options.variant = variant;
  return options;
}

TEST_F(VulkanDecode, BothVariantsGiveTheValuesOfManyShapes) {
  struct Shape {
    uint64_t m, n;
    uint32_t tile_rows, tile_cols;
    CodecSpec codec;
  };
  const std::vector<Shape> shapes = {
      {1, 1, 16, 32, {1, 1}},
      {7, 5, 16, 32, {2, 3}},
      {64, 32, 32, 32, {1, 4}},
      {33, 31, 32, 64, {3, 5}},
      {130, 133, 64, 64, {3, 12}},
      {100, 300, 48, 256, {5, 40}},                                      // too many tables for shared memory
      {50, 70, 32, 32, {4, 12, 0, 0, Activation::kNone, false, false}},  // no raw bits
      {40, 515, 16, 512, {64, 1000}},
  };
  for (const Shape& s : shapes) {
    CodecSpec spec = s.codec;
    spec.seed = s.m;
    open(testing::random_codec(spec), {"coded", s.m, s.n, s.tile_rows, s.tile_cols, s.m % 2 == 0, s.n});
    if (HasFatalFailure()) return;
    NWC_NEED_DEVICE(start(with_variant(VulkanOptions::Variant::kShared)));
    const std::vector<int16_t> expected = values(*cpu_);
    SCOPED_TRACE(std::to_string(s.m) + "x" + std::to_string(s.n));
    EXPECT_EQ(values(*vulkan_), expected) << "shared";
    if (!vulkan_->device_info().ballot) continue;
    ASSERT_TRUE(start(with_variant(VulkanOptions::Variant::kBallot)).ok());
    EXPECT_EQ(values(*vulkan_), expected) << "ballot";
    expect_weights_agree(0, s.m);
  }
}

TEST_F(VulkanDecode, BothVariantsKnowTrellisesAndRowClasses) {
  uint32_t seed = 0;
  for (const uint32_t trellis_bits : {0u, 3u, 8u, 12u}) {
    for (const bool row_classes : {false, true}) {
      if (trellis_bits == 0 && !row_classes) continue;
      reference::CodecOptions options;
      options.trellis_bits = trellis_bits;
      options.row_classes = row_classes;
      options.tables = 3 + 7 * (trellis_bits % 3);
      options.max_raw_bits = trellis_bits % 2 == 0 ? 0 : 4;
      const CodecRecord codec = reference::make_codec(options, ++seed);
      // 512 columns a tile: 16 to a lane. All rows of class 0 with v = 8.
      reference::TensorOptions shape{"coded", {77, 1030}, 64, 512, true};
      if (trellis_bits % 2 == 0) shape = {"coded", {130, 75}, 32, 64};
      shape.row_classes = row_classes && trellis_bits != 8;
      shape.free_states = row_classes;
      std::vector<reference::TestTensor> tensors = {reference::make_tensor(codec, shape, ++seed)};
      file_ = testing::open_bytes(reference::make_file(codec, &tensors));
      ASSERT_NE(file_, nullptr);
      cpu_ = std::move(create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar)).value();
      SCOPED_TRACE("v = " + std::to_string(trellis_bits) + (row_classes ? ", row classes" : ""));
      NWC_NEED_DEVICE(start(with_variant(VulkanOptions::Variant::kShared)));
      EXPECT_EQ(values(*vulkan_), tensors[0].values) << "shared";
      if (!vulkan_->device_info().ballot) continue;
      VulkanOptions ballot = with_variant(VulkanOptions::Variant::kBallot);
      ballot.max_window_bytes = row_classes ? 64 * 75 * 8 : ballot.max_window_bytes;
      ASSERT_TRUE(start(ballot).ok());
      EXPECT_EQ(values(*vulkan_), tensors[0].values) << "ballot";
      expect_weights_agree(19, 70);
    }
  }
}

TEST_F(VulkanDecode, SeveralTilesPerWorkgroup) {
  open(testing::random_codec({3, 6}), {"coded", 150, 133, 16, 32});
  VulkanOptions options = with_variant(VulkanOptions::Variant::kBallot);
  options.tiles_per_workgroup = 3;
  NWC_NEED_DEVICE(start());
  if (!vulkan_->device_info().ballot) GTEST_SKIP() << "no ballots";
  ASSERT_TRUE(start(options).ok());
  EXPECT_EQ(values(*vulkan_), values(*cpu_));
}

TEST_F(VulkanDecode, RowRangesAndHalves) {
  open(testing::random_codec({3, 6}), {"coded", 101, 77, 32, 64, true});
  NWC_NEED_DEVICE(start());
  for (const auto& [begin, end] :
       std::vector<std::pair<uint64_t, uint64_t>>{{0, 101}, {0, 1}, {100, 101}, {31, 33}, {17, 18}, {40, 90}, {5, 5}}) {
    SCOPED_TRACE(std::to_string(begin) + " to " + std::to_string(end));
    expect_weights_agree(begin, end);
    expect_halves_follow(begin, end);
  }
}

// Experts [4][33][64], whose first two dimensions are the rows, have the weights of the matrix [132][64].
TEST_F(VulkanDecode, SplitTensorsDecodeAsTheirMatrix) {
  const CodedSpec matrix = {"coded", 132, 64, 32, 64, true};
  open(testing::random_codec({3, 6}), matrix);
  NWC_NEED_DEVICE(start());
  const std::vector<int16_t> want_values = values(*vulkan_);
  const std::vector<float> want = rows<float>(*vulkan_, 30, 100, Dtype::kF32);
  CodedSpec experts = matrix;
  experts.shape = {4, 33, 64};
  experts.split = 2;
  open(testing::random_codec({3, 6}), experts);
  ASSERT_TRUE(start().ok());
  ASSERT_EQ(record().rows(), 132u);
  EXPECT_EQ(values(*vulkan_), want_values);
  EXPECT_EQ(rows<float>(*vulkan_, 30, 100, Dtype::kF32), want);
  expect_weights_agree(0, 132);
}

TEST_F(VulkanDecode, SmallWindowsGiveTheSame) {
  open(testing::random_codec({3, 6}), {"coded", 130, 133, 32, 32, true});
  NWC_NEED_DEVICE(start());
  const std::vector<int16_t> whole_values = values(*vulkan_);
  const std::vector<uint16_t> whole = rows<uint16_t>(*vulkan_, 3, 125, Dtype::kF16);
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{32 * 32 * 8 * 2}, uint64_t{32 * 160 * 8}, uint64_t{64 * 160 * 8}}) {
    VulkanOptions options;
    options.max_window_bytes = bytes;
    ASSERT_TRUE(start(options).ok());
    EXPECT_EQ(values(*vulkan_), whole_values) << bytes;
    EXPECT_EQ(rows<uint16_t>(*vulkan_, 3, 125, Dtype::kF16), whole) << bytes;
  }
}

TEST_F(VulkanDecode, RefusedAllocationsMakeWindowsSmaller) {
  open(testing::random_codec({3, 6}), {"coded", 1024, 300, 64, 64});
  VulkanOptions options;
  options.allocation_limit = 700000;
  NWC_NEED_DEVICE(start(options));
  EXPECT_EQ(values(*vulkan_), values(*cpu_));
  expect_weights_agree(0, 1024);
  EXPECT_TRUE(log_.mentions("trying windows of"));

  options.allocation_limit = 60000;
  ASSERT_TRUE(start(options).ok());
  std::vector<float> out(1024 * 300);
  DecodeRequest request;
  request.row_end = 1024;
  request.dtype = Dtype::kF32;
  request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size() * 4};
  EXPECT_EQ(vulkan_->decode(request).code(), StatusCode::kOutOfMemory);
}

// Kernels never see less of a buffer than they use: windows are cut to what a binding holds.
TEST_F(VulkanDecode, SmallBindingsMakeWindowsSmaller) {
  open(testing::random_codec({3, 6}), {"coded", 512, 301, 64, 64});
  VulkanOptions options;
  options.storage_range_limit = 20000;  // a tile's weights in f32, and little else
  NWC_NEED_DEVICE(start(options));
  EXPECT_EQ(values(*vulkan_), values(*cpu_));
  expect_weights_agree(0, 512);
  const std::vector<uint16_t> halves = rows<uint16_t>(*vulkan_, 3, 500, Dtype::kF16);
  ASSERT_TRUE(start({}).ok());
  EXPECT_EQ(rows<uint16_t>(*vulkan_, 3, 500, Dtype::kF16), halves);
}

TEST_F(VulkanDecode, NetworksOfAllKinds) {
  const std::vector<CodecSpec> specs = {
      {3, 6, 16, 1, Activation::kRelu, false},  {2, 6, 64, 2, Activation::kSilu, true},
      {4, 6, 48, 3, Activation::kRelu, true},   {1, 6, 144, 1, Activation::kSilu, false},
      {4, 6, 512, 4, Activation::kRelu, false},  // the paper's
      {2, 6, 512, 4, Activation::kRelu, true},  {2, 6, 1024, 1, Activation::kSilu, true},
      {2, 6, 976, 1, Activation::kRelu, false},
  };
  for (const CodecSpec& spec : specs) {
    SCOPED_TRACE("width " + std::to_string(spec.width) + " blocks " + std::to_string(spec.blocks));
    const bool large = spec.width > 100;  // slow in software
    const uint64_t m = large ? 19 : 35, n = large ? 9 : 77;
    open(testing::random_codec(spec), {"coded", m, n, 32, 64, true});
    if (HasFatalFailure()) return;
    NWC_NEED_DEVICE(start());
    expect_weights_agree(0, m);
    expect_weights_agree(15, 18);
    expect_halves_follow(3, m);
  }
}

/// A file whose bytes change under the open decoders.
class VulkanDamage : public VulkanDecode {
 protected:
  void open_changeable(const CodedSpec& spec) {
    const CodecRecord codec = testing::random_codec({3, 6});
    bytes_ = testing::model_file(codec, {testing::coded_tensor(codec, spec)});
    good_ = bytes_;
    auto file = NwcFile::open(make_memory_reader(bytes_));
    ASSERT_TRUE(file.ok());
    file_ = std::move(file).value();
    cpu_ = std::move(create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar)).value();
  }
  void restore() { std::copy(good_.begin(), good_.end(), bytes_.begin()); }
  /// Both decoders' answers to the whole tensor agree; returns whether they are errors.
  bool compare(bool check_crc) {
    std::vector<float> out(record().num_elements());
    DecodeRequest request;
    request.row_end = record().rows();
    request.dtype = Dtype::kF32;
    request.check_crc = check_crc;
    request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size() * 4};
    const Status expected = cpu_->decode(request);
    const Status got = vulkan_->decode(request);
    EXPECT_EQ(got.code(), expected.code()) << got.message() << " / " << expected.message();
    EXPECT_TRUE(got.ok() || got.message().find("coded") != std::string::npos) << got.message();
    return !got.ok();
  }

  std::vector<uint8_t> bytes_, good_;
};

TEST_F(VulkanDamage, PayloadsGiveTheCpusErrors) {
  open_changeable({"coded", 64, 70, 32, 64});
  NWC_NEED_DEVICE(start());
  const auto coded = file_->load_coded(0, true);
  ASSERT_TRUE(coded.ok());
  testing::Random random;
  int errors = 0;
  for (uint32_t trial = 0; trial < 60; ++trial) {
    SCOPED_TRACE(trial);
    restore();
    const CodedTensor::Tile& tile = coded->tiles[random.below(4)];
    uint8_t* payload = bytes_.data() + tile.offset;
    const uint32_t flips = 1 + random.below(20);
    for (uint32_t i = 0; i < flips; ++i) {
      // Every third trial damages the states, the others anything.
      const uint32_t range = trial % 3 == 0 ? std::min(24u, tile.size) : tile.size;
      payload[random.below(range)] = static_cast<uint8_t>(random.next());
    }
    if (trial % 10 == 1) std::fill_n(payload, tile.size, uint8_t{0});
    if (trial % 10 == 2) std::fill_n(payload, tile.size, uint8_t{255});
    errors += compare(trial % 7 == 0);
  }
  EXPECT_GT(errors, 50);
  restore();
  EXPECT_FALSE(compare(true));
  EXPECT_EQ(values(*vulkan_), values(*cpu_));
}

TEST_F(VulkanDamage, DirectorySizesAreChecked) {
  open_changeable({"coded", 16, 64, 16, 32});
  NWC_NEED_DEVICE(start());
  uint8_t* directory = bytes_.data() + file_->data_offset() + record().offset + record().side_size;
  const uint32_t first = load_le<uint32_t>(directory), second = load_le<uint32_t>(directory + 8);
  // A first payload without states, without words, with half a word, with a word too few or too many, and all of it.
  for (const uint32_t size : {0u, 100u, 128u, first - 1, first - 2, first + 1, first + 2, first + second}) {
    SCOPED_TRACE(size);
    store_le(directory, size);
    store_le(directory + 8, first + second - size);
    EXPECT_TRUE(compare(false));
  }
  restore();
  EXPECT_FALSE(compare(true));
}

TEST_F(VulkanDecode, RawTensorsAndBadRequests) {
  const CodecRecord codec = testing::random_codec({1, 2});
  ByteWriter floats, integers;
  for (int i = 0; i < 12; ++i) floats.write(0.37f * static_cast<float>(i - 5));
  for (int i = 0; i < 12; ++i) integers.write<uint8_t>(static_cast<uint8_t>(i));
  file_ = testing::open_bytes(
      testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 16, 32, 16, 32}),
                                  testing::raw_tensor("floats", Dtype::kF32, 4, 3, floats.take()),
                                  testing::raw_tensor("bytes", Dtype::kU8, 4, 3, integers.take())}));
  ASSERT_NE(file_, nullptr);
  auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
  NWC_NEED_DEVICE(start());
  std::vector<uint8_t> out(16 * 32 * 4);
  for (Decoder* decoder : {cpu->get(), static_cast<Decoder*>(vulkan_.get())}) {
    SCOPED_TRACE(decoder->name());
    DecodeRequest request;
    request.tensor = 1;
    request.row_begin = 1;
    request.row_end = 3;
    request.dtype = Dtype::kBf16;
    request.out = out;
    ASSERT_TRUE(decoder->decode(request).ok());
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(load_le<uint16_t>(out.data() + 2 * i), f32_to_bf16(0.37f * static_cast<float>(i - 2)));
    }
    request.tensor = 2;
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kUnsupported);
    request.tensor = 3;
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kInvalidArgument);
    request.tensor = 0;
    request.row_end = 17;
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kInvalidArgument);
    request.row_end = 16;
    request.dtype = Dtype::kI8;
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kInvalidArgument);
    request.dtype = Dtype::kF16;
    request.out = MutableBytes(out).first(16);
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kBufferTooSmall);
    request.out = out;
    request.progress = {[](void*, uint64_t, uint64_t) { return false; }, nullptr};
    EXPECT_EQ(decoder->decode(request).code(), StatusCode::kCancelled);
    std::vector<int16_t> few(10);
    EXPECT_FALSE(decoder->decode_values(0, few).ok());
    EXPECT_FALSE(decoder->decode_values(1, few).ok());
  }
}

}  // namespace
}  // namespace nwc
