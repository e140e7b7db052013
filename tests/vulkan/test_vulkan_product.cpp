// Products with coded tensors on the device, against the scalar decoder's weights: all batches, several tensors at
// once, every kernel variant, linear codecs and networks; damaged files give the decoder's errors when they are loaded.
#include <gtest/gtest.h>

#include "runtime/decoder/vulkan/device_product.h"
#include "tests/codec/reference_encoder.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using Product = VulkanFusedProduct::Product;

class VulkanProduct : public ::testing::Test {
 protected:
  void open(std::vector<uint8_t> bytes) {
    bytes_ = std::move(bytes);
    auto file = NwcFile::open(make_memory_reader(bytes_));
    ASSERT_TRUE(file.ok()) << file.status().message();
    file_ = std::move(file).value();
    weights_.clear();
    tolerance_.clear();
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    for (size_t t = 0; t < file_->tensors().size(); ++t) remember(**cpu, t);
  }
  Status start(VulkanOptions options = {}) {
    options.validation = true;
    product_.reset();
    vulkan_.reset();
    NWC_ASSIGN_OR_RETURN(vulkan_, VulkanDecoder::create(*file_, *runner_, options, log_.logger()));
    NWC_ASSIGN_OR_RETURN(product_, VulkanFusedProduct::create(*vulkan_));
    options_ = options;
    return {};
  }
  void TearDown() override {
    product_.reset();
    vulkan_.reset();
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
    EXPECT_FALSE(log_.mentions("quarantined")) << ::testing::PrintToString(log_.all);
  }
  const TensorRecord& record(size_t tensor) const { return file_->tensors()[tensor]; }

  /// Weights, and what a weight's product with 1 may be off by: scale (1 + max |y| of the chunk) 2^-14.
  void remember(Decoder& cpu, size_t tensor) {
    const uint64_t m = record(tensor).rows(), n = record(tensor).cols();
    std::vector<float> w(m * n);
    DecodeRequest request;
    request.tensor = tensor;
    request.row_end = m;
    request.dtype = Dtype::kF32;
    request.out = {reinterpret_cast<uint8_t*>(w.data()), w.size() * 4};
    ASSERT_TRUE(cpu.decode(request).ok());
    std::vector<int16_t> values(ceil_div(m, kChunk) * n * kChunk);
    ASSERT_TRUE(cpu.decode_values(tensor, values).ok());
    const auto coded = file_->load_coded(tensor, true);
    ASSERT_TRUE(coded.ok());
    std::vector<uint8_t> level;
    for (size_t i = 0; i < values.size() / kChunk; ++i) level.push_back(coded->level[i % n]);
    std::vector<float> y(values.size());
    synthesize_chunks(CpuLevel::kScalar, *file_->codec(), values, level.data(), y);
    std::vector<double> tolerance(m * n);
    for (uint64_t i = 0; i < m * n; ++i) {
      const float* chunk = &y[(i / n / kChunk * n + i % n) * kChunk];
      double most = 0;
      for (uint32_t c = 0; c < kChunk; ++c) most = std::max(most, std::fabs(static_cast<double>(chunk[c])));
      const float row_scale = coded->row_scale.empty() ? 1.0f : coded->row_scale[i / n];
      tolerance[i] = 0x1p-14 * static_cast<double>(coded->scale[i % n] * row_scale) * (1 + most);
    }
    weights_.push_back(std::move(w));
    tolerance_.push_back(std::move(tolerance));
  }

  struct Wanted {
    size_t tensor;
    uint32_t batch;
    bool accumulate = false;
  };
  static float x_of(uint64_t i) {
    return i % 13 == 5 ? 0.0f : static_cast<float>(static_cast<int>(i * 37 % 101) - 50) / 16.0f;
  }
  static float y_before(uint64_t i) { return static_cast<float>(i % 7) - 3.0f; }

  /// All in one call, with x and y of all in one buffer each, gaps between them and between vectors. Compares; *results
  /// has the bits of y.
  void multiply(const std::vector<Wanted>& wanted, std::vector<uint32_t>* results = nullptr) {
    std::vector<Product> products;
    uint64_t x_end = 1, y_end = 3;  // in numbers: views begin anywhere
    for (const Wanted& w : wanted) {
      ASSERT_TRUE(product_->load(w.tensor).ok());
      Product p;
      p.tensor = w.tensor;
      p.batch = w.batch;
      p.accumulate = w.accumulate;
      p.x_stride = record(w.tensor).cols() + 2;
      p.y_stride = record(w.tensor).rows() + 1;
      p.x = {nullptr, x_end * 4, p.batch * p.x_stride * 4};
      p.y = {nullptr, y_end * 4, p.batch * p.y_stride * 4};
      // The same x for the same width. (Validation takes y whose bindings touch for one another's.)
      if (!products.empty() && record(products.back().tensor).cols() == record(w.tensor).cols() &&
          products.back().batch >= w.batch) {
        p.x = products.back().x;
      } else {
        x_end += p.batch * p.x_stride + 1;
      }
      y_end = align_up(y_end + p.batch * p.y_stride, 64) + 3;
      products.push_back(p);
    }
    VulkanDevice& device = vulkan_->device();
    auto x = DeviceBuffer::create(device, x_end * 4, MemoryKind::kUpload);
    auto y = DeviceBuffer::create(device, y_end * 4, MemoryKind::kReadback);
    auto batch = CommandBatch::create(device, vulkan_->pipelines());
    ASSERT_TRUE(x.ok() && y.ok() && batch.ok());
    for (uint64_t i = 0; i < x_end; ++i) store_le(x->mapped().data() + i * 4, x_of(i));
    for (uint64_t i = 0; i < y_end; ++i) store_le(y->mapped().data() + i * 4, y_before(i));
    for (Product& p : products) p.x.buffer = &*x, p.y.buffer = &*y;
    ASSERT_TRUE((*batch)->begin().ok());
    const Status status = product_->record(**batch, products);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE((*batch)->submit_and_wait().ok());

    std::vector<bool> written(y_end);
    for (const Product& p : products) {
      SCOPED_TRACE(record(p.tensor).name + ", " + std::to_string(p.batch) + " vectors");
      const uint64_t m = record(p.tensor).rows(), n = record(p.tensor).cols();
      int wrong = 0;
      for (uint64_t i = 0; i < p.batch * m; ++i) {
        const uint64_t v = i / m, row = i % m, at = p.y.offset / 4 + v * p.y_stride + row;
        written[at] = true;
        double expected = p.accumulate ? static_cast<double>(y_before(at)) : 0, tolerance = 0x1p-20;
        for (uint64_t column = 0; column < n; ++column) {
          const double factor = static_cast<double>(x_of(p.x.offset / 4 + v * p.x_stride + column));
          expected += factor * static_cast<double>(weights_[p.tensor][row * n + column]);
          tolerance += std::fabs(factor) * tolerance_[p.tensor][row * n + column];
        }
        const double got = static_cast<double>(load_le<float>(y->mapped().data() + at * 4));
        if (!(std::fabs(got - expected) <= tolerance) && wrong++ < 5) {
          ADD_FAILURE() << "vector " << v << " row " << row << ": " << got << ", not " << expected;
        }
      }
      EXPECT_EQ(wrong, 0);
    }
    if (results != nullptr) {
      results->clear();
      for (uint64_t i = 0; i < y_end; ++i) results->push_back(load_le<uint32_t>(y->mapped().data() + i * 4));
    }
    for (uint64_t i = 0; i < y_end; ++i) {
      if (!written[i]) {
        ASSERT_EQ(load_le<float>(y->mapped().data() + i * 4), y_before(i)) << i;
      }
    }
  }

  std::unique_ptr<Runner> runner_ = make_thread_pool(2);
  testing::LogLines log_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<NwcFile> file_;
  std::vector<std::vector<float>> weights_;
  std::vector<std::vector<double>> tolerance_;
  VulkanOptions options_;
  std::unique_ptr<VulkanDecoder> vulkan_;
  std::unique_ptr<VulkanFusedProduct> product_;
};

std::vector<uint8_t> three_tensors(const CodecRecord& codec) {
  return testing::model_file(codec, {testing::coded_tensor(codec, {"first", 70, 133, 32, 64, true, 1}),
                                     testing::coded_tensor(codec, {"second", 19, 64, 16, 32, false, 2}),
                                     testing::coded_tensor(codec, {"third", 128, 330, 64, 64, true, 3})});
}

std::vector<uint8_t> linear_file() { return three_tensors(testing::random_codec({3, 6})); }

std::vector<uint8_t> trellis_file() {
  reference::CodecOptions options;
  options.trellis_bits = 6;
  options.row_classes = true;
  options.tables = 9;
  const CodecRecord codec = reference::make_codec(options, 1);
  reference::TensorOptions shape{"coded", {93, 300}, 32, 256, true};
  shape.row_classes = true;
  std::vector<reference::TestTensor> tensors = {reference::make_tensor(codec, shape, 2)};
  return reference::make_file(codec, &tensors);
}

TEST_F(VulkanProduct, EveryBatch) {
  open(linear_file());
  NWC_NEED_DEVICE(start());
  for (const uint32_t batch : {1u, 3u, 8u}) multiply({{0, batch, batch % 2 == 0}});
  const uint64_t most = VulkanFusedProduct::max_tensor_bytes(*file_, 0, options_) +
                        VulkanFusedProduct::max_shared_bytes(*file_, options_);
  EXPECT_LE(product_->device_bytes(), most);
}

TEST_F(VulkanProduct, SeveralTensorsAtOnce) {
  open(linear_file());
  VulkanOptions options;
  options.max_window_bytes = 1;  // payloads in windows of 1 MiB: still one each
  NWC_NEED_DEVICE(start(options));
  multiply({{0, 2}, {0, 2}, {1, 1}, {2, 3, true}, {1, 2, true}, {1, 1}, {0, 1}});
  multiply({{2, 1}});
}

TEST_F(VulkanProduct, EveryVariant) {
  open(trellis_file());
  for (const VulkanOptions::Variant variant : {VulkanOptions::Variant::kBallot, VulkanOptions::Variant::kShared}) {
    for (const int staging : {0, 1}) {
      VulkanOptions options;
      options.variant = variant;
      options.stream_staging = staging;
      options.tiles_per_workgroup = staging == 0 ? 2 : 1;
      const Status status = start(options);
      if (variant == VulkanOptions::Variant::kBallot && status.code() == StatusCode::kNoDevice) continue;
      NWC_NEED_DEVICE(status);
      multiply({{0, 2}});
    }
  }
}

TEST_F(VulkanProduct, Identity) {
  CodecRecord codec = testing::random_codec({4, 20, 0, 0, Activation::kNone, false, false});
  for (size_t i = 0; i < codec.synthesis.skip_weight.size(); ++i)
    codec.synthesis.skip_weight[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
  open(testing::model_file(codec, {testing::coded_tensor(codec, {"coded", 50, 70, 48, 32})}));
  NWC_NEED_DEVICE(start());
  multiply({{0, 2}});
}

// 32 columns of a row block to a workgroup; ends of windows and tiles in the middle of it.
TEST_F(VulkanProduct, NetworkEveryBatch) {
  open(three_tensors(testing::random_codec({3, 6, 16, 1, Activation::kRelu, false})));
  NWC_NEED_DEVICE(start());
  for (uint32_t batch = 1; batch <= kMaxFusedBatch; ++batch) multiply({{0, batch, batch % 2 == 0}});
  const uint64_t most = VulkanFusedProduct::max_tensor_bytes(*file_, 0, options_) +
                        VulkanFusedProduct::max_shared_bytes(*file_, options_);
  EXPECT_LE(product_->device_bytes(), most);
}

// 24 columns to a workgroup, which lie in two tiles; three invocations share an output's chunks.
TEST_F(VulkanProduct, NetworkWithLayerNorm) {
  open(three_tensors(testing::random_codec({3, 6, 80, 2, Activation::kSilu, true})));
  NWC_NEED_DEVICE(start());
  multiply({{0, 3}, {1, 8, true}});
}

TEST_F(VulkanProduct, NetworkInSlices) {
  open(three_tensors(testing::random_codec({3, 6, 32, 1, Activation::kSilu, false})));
  const std::vector<Wanted> wanted = {{2, 3, true}, {0, 2}, {0, 2}, {1, 1}, {1, 2, true}, {0, 1}};
  NWC_NEED_DEVICE(start());
  std::vector<uint32_t> at_once, in_slices, alone;
  multiply(wanted, &at_once);
  multiply({{2, 3, true}}, &alone);
  ASSERT_LE(alone.size(), at_once.size());
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), at_once.begin()));
  // One band of tiles of the largest tensor at a time.
  const uint64_t bytes = product_->device_bytes();
  VulkanOptions options;
  options.max_window_bytes = 1;
  NWC_NEED_DEVICE(start(options));
  multiply(wanted, &in_slices);
  EXPECT_EQ(in_slices, at_once);
  EXPECT_LT(product_->device_bytes(), bytes);
  uint64_t most = VulkanFusedProduct::max_shared_bytes(*file_, options_);
  for (size_t t = 0; t < 3; ++t) most += VulkanFusedProduct::max_tensor_bytes(*file_, t, options_);
  EXPECT_LE(product_->device_bytes(), most);
}

TEST_F(VulkanProduct, DamageShowsWhenLoading) {
  open(linear_file());
  NWC_NEED_DEVICE(start());
  const std::vector<uint8_t> good = bytes_;
  const auto coded = file_->load_coded(2, true);
  ASSERT_TRUE(coded.ok());
  const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
  std::vector<float> out(128 * 330);
  for (const bool check_crc : {true, false}) {
    for (const size_t tile : {size_t{0}, coded->tiles.size() - 1}) {
      std::copy(good.begin(), good.end(), bytes_.begin());
      bytes_[coded->tiles[tile].offset + 1] ^= 0x40;
      DecodeRequest request;
      request.tensor = 2;
      request.row_end = 128;
      request.dtype = Dtype::kF32;
      request.check_crc = check_crc;
      request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size() * 4};
      const Status expected = (*cpu)->decode(request);
      const Status got = product_->load(2, check_crc);
      ASSERT_FALSE(expected.ok());
      EXPECT_EQ(got.code(), expected.code());
      EXPECT_NE(got.message().find("third, tile " + std::to_string(tile)), std::string::npos) << got.message();
      EXPECT_FALSE(product_->is_loaded(2));
    }
  }
  std::copy(good.begin(), good.end(), bytes_.begin());
  multiply({{2, 1}});
}

TEST_F(VulkanProduct, BadRequests) {
  open(linear_file());
  NWC_NEED_DEVICE(start());
  EXPECT_EQ(product_->load(3).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(product_->load(1).ok());
  auto x = DeviceBuffer::create(vulkan_->device(), 2 * 64 * 4, MemoryKind::kDevice);
  auto y = DeviceBuffer::create(vulkan_->device(), 2 * 19 * 4, MemoryKind::kDevice);
  auto batch = CommandBatch::create(vulkan_->device(), vulkan_->pipelines());
  ASSERT_TRUE(x.ok() && y.ok() && batch.ok());
  const auto code = [&](auto&& change) {
    Product product{1, 2, &*x, 64, &*y, 19};
    change(product);
    EXPECT_TRUE((*batch)->begin().ok());
    return product_->record(**batch, {&product, 1}).code();
  };
  EXPECT_EQ(code([](Product&) {}), StatusCode::kOk);
  EXPECT_EQ(code([](Product& p) { p.tensor = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.batch = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.batch = 9; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.batch = 3; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.x = nullptr; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.x_stride = 63; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.y.offset = 4; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Product& p) { p.y_stride = 20; }), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nwc
