// Products from the payload against products with decoded weights.
#include <gtest/gtest.h>

#include "runtime/codec/fused_product.h"
#include "runtime/codec/synthesis.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::TensorOptions;
using reference::TestTensor;
using Model = reference::TestModel;

Model make_model(const CodecRecord& codec, const std::vector<TensorOptions>& tensors) {
  CodecRecord identified = codec;
  identified.codec_id = compute_codec_id(identified);
  std::vector<TestTensor> made;
  uint32_t seed = 20;
  for (TensorOptions t : tensors) {
    t.row_classes = codec.context_kind == ContextKind::kRowClass;
    t.free_states = seed % 2 == 0;
    t.wrapping = false;
    t.escapes_below = 100;  // few huge weights would hide mistakes with the others
    made.push_back(reference::make_tensor(identified, t, ++seed));
  }
  Result<Model> m = reference::make_model(identified, std::move(made));
  EXPECT_TRUE(m.ok()) << m.status().message();
  return std::move(m).value();
}

TensorDecodeOptions at(CpuLevel cpu) {
  TensorDecodeOptions options;
  options.cpu = cpu;
  return options;
}

std::vector<float> random_vectors(uint64_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& v : x) v = normal(rng);
  return x;
}

std::vector<float> multiply(const Model& m, size_t tensor, uint32_t batch, std::span<const float> x, CpuLevel cpu,
                            uint32_t threads) {
  FusedProduct product(*m.file, m.tables);
  const auto pool = make_thread_pool(threads);
  std::vector<float> y(batch * m.tensors[tensor].record.rows(), -77.0f);
  const Status status = product.multiply(tensor, batch, x, y, *pool, at(cpu));
  EXPECT_TRUE(status.ok()) << status.message();
  return y;
}

/// The product in f64 with the scalar decoder's weights, and what fused_product.h allows.
struct Expected {
  std::vector<double> y, tolerance;
};
Expected expected_product(const Model& m, size_t tensor, uint32_t batch, std::span<const float> x) {
  const TestTensor& t = m.tensors[tensor];
  const uint64_t rows = t.record.rows(), n = t.record.cols();
  std::vector<float> w(rows * n);
  const auto pool = make_thread_pool(1);
  const MutableBytes bytes(reinterpret_cast<uint8_t*>(w.data()), w.size() * sizeof(float));
  EXPECT_TRUE(
      decode_tensor_rows(*m.file, m.tables, tensor, 0, rows, Dtype::kF32, bytes, *pool, at(CpuLevel::kScalar)).ok());
  Expected e{std::vector<double>(batch * rows), std::vector<double>(batch * rows)};
  for (uint64_t rb = 0; rb * kChunk < rows; ++rb) {
    std::vector<float> chunks(n * kChunk);
    synthesize_chunks(CpuLevel::kScalar, m.codec, std::span(t.values).subspan(rb * n * kChunk, n * kChunk),
                      t.level.data(), chunks);
    for (uint64_t r = rb * kChunk; r < std::min<uint64_t>(rows, (rb + 1) * kChunk); ++r) {
      const double row_scale =
          t.record.row_scales ? scale_from_code(t.row_scale_code[r], t.record.row_scale_base) : 1.0;
      for (uint64_t j = 0; j < n; ++j) {
        float largest = 0;
        for (uint32_t i = 0; i < kChunk; ++i) largest = std::max(largest, std::abs(chunks[j * kChunk + i]));
        const double scale = row_scale * static_cast<double>(scale_from_code(t.scale_code[j], t.record.scale_base));
        for (uint32_t b = 0; b < batch; ++b) {
          const double xj = static_cast<double>(x[b * n + j]);
          e.y[b * rows + r] += xj * static_cast<double>(w[r * n + j]);
          e.tolerance[b * rows + r] += 0x1p-14 * std::abs(xj) * scale * (1 + static_cast<double>(largest));
        }
      }
    }
  }
  return e;
}

const std::vector<TensorOptions> kShapes = {
    {"several tiles", {300, 280}, 64, 128, false, false}, {"row scales", {129, 200}, 64, 32, true, false},
    {"one weight", {1, 1}, 16, 32, false, false},         {"ragged", {17, 33}, 16, 32, true, true},
    {"one column", {15}, 128, 256, false, false},         {"three dimensions", {40, 3, 11}, 32, 64, false, false}};

enum Network { kIdentity, kLinear, kSmall, kNormalised };

class Fused : public testing::TestWithParam<std::tuple<Network, uint32_t>> {
 protected:
  static CodecRecord codec() {
    const auto [network, trellis_bits] = GetParam();
    reference::CodecOptions o;
    o.trellis_bits = trellis_bits;
    o.row_classes = trellis_bits == 8;
    o.max_raw_bits = trellis_bits == 3 ? 2 : 0;
    if (network >= kSmall) {
      o.width = network == kSmall ? 64 : 32;
      o.blocks = 2;
      o.activation = network == kSmall ? Activation::kRelu : Activation::kSilu;
      o.layer_norm = network == kNormalised;
    }
    CodecRecord codec = reference::make_codec(o, 4);
    for (uint32_t i = 0; network == kIdentity && i < kChunk * kChunk; ++i)
      codec.synthesis.skip_weight[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
    return codec;
  }
};

TEST_P(Fused, EqualsDecodingAndMultiplying) {
  const Model m = make_model(codec(), kShapes);
  std::vector<float> first;
  for (size_t t = 0; t < kShapes.size(); ++t) {
    const uint64_t n = m.tensors[t].record.cols();
    const std::vector<float> x = random_vectors(kMaxFusedBatch * n, 5);
    const Expected e = expected_product(m, t, kMaxFusedBatch, x);
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      for (const uint32_t batch : {1u, 2u, 5u, 8u}) {
        const std::vector<float> y = multiply(m, t, batch, x, cpu, batch == 5 ? 3 : 1);
        double errors = 0, squares = 0;
        for (size_t i = 0; i < y.size(); ++i) {
          const double error = static_cast<double>(y[i]) - e.y[i];
          ASSERT_LE(std::abs(error), e.tolerance[i])
              << kShapes[t].name << " " << cpu_level_name(cpu) << " batch " << batch << " value " << i;
          errors += error * error;
          squares += e.y[i] * e.y[i];
        }
        // The tolerance adds up the worst of all columns; rounding alone stays far below.
        EXPECT_LE(std::sqrt(errors), 1e-5 * std::sqrt(squares)) << kShapes[t].name << " " << cpu_level_name(cpu);
        // Each vector's product is what it is in any other batch, on any number of threads.
        if (batch == 1) first = y;
        ASSERT_TRUE(std::equal(first.begin(), first.end(), y.begin()));
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Codecs, Fused,
                         testing::Combine(testing::Values(kIdentity, kLinear, kSmall, kNormalised),
                                          testing::Values(0u, 3u, 8u)));

// Rows go in slices where the partial results of all would be large: 4001 x 37 x 8 values are more than 2^20.
TEST(FusedProduct, SlicesOfRowsMeet) {
  const Model m = make_model(reference::make_codec({}, 4), {{"tall", {4001, 1184}, 16, 32, true, true}});
  const std::vector<float> x = random_vectors(kMaxFusedBatch * 1184, 6);
  const Expected e = expected_product(m, 0, kMaxFusedBatch, x);
  const std::vector<float> y = multiply(m, 0, kMaxFusedBatch, x, detect_cpu_level(), 2);
  for (size_t i = 0; i < y.size(); ++i) ASSERT_LE(std::abs(static_cast<double>(y[i]) - e.y[i]), e.tolerance[i]) << i;
}

TEST(FusedProduct, OneObjectServesAllTensorsAgainAndAgain) {
  const Model m = make_model(reference::make_codec({}, 4), kShapes);
  FusedProduct product(*m.file, m.tables);
  const auto pool = make_thread_pool(2);
  for (const size_t t : {0u, 3u, 1u, 0u, 4u}) {
    for (const uint32_t batch : {8u, 1u}) {
      const std::vector<float> x = random_vectors(batch * m.tensors[t].record.cols(), 7);
      std::vector<float> y(batch * m.tensors[t].record.rows());
      ASSERT_TRUE(product.multiply(t, batch, x, y, *pool, at(detect_cpu_level())).ok());
      EXPECT_EQ(y, multiply(m, t, batch, x, detect_cpu_level(), 1));
    }
  }
}

TEST(FusedProduct, ColumnsOfScaleZeroAddNothing) {
  const Model m = make_model(reference::make_codec({}, 4), {kShapes[0]});
  const TestTensor& t = m.tensors[0];
  std::vector<float> x(280, 0.0f);
  for (size_t j = 0; j < x.size(); ++j) x[j] = t.scale_code[j] == 0 ? 3.0f : 0.0f;
  ASSERT_GT(*std::max_element(x.begin(), x.end()), 0.0f);
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    EXPECT_EQ(multiply(m, 0, 1, x, cpu, 1), std::vector<float>(300, 0.0f));
  }
}

// Scales of columns and rows that lie far from 1, though the weights do not: neither sums nor factors leave f32.
TEST(FusedProduct, ScalesFarFromOne) {
  for (const int shift : {-90, 70}) {
    TensorOptions far = kShapes[1];
    far.row_scales = true;
    far.scale_base = std::ldexp(1.0f, shift);
    far.row_scale_base = std::ldexp(1.0f, -shift - 40);
    const Model m = make_model(reference::make_codec({}, 4), {far});
    const uint64_t n = m.tensors[0].record.cols();
    std::vector<float> x = random_vectors(n, 7);
    for (float& v : x) v *= shift < 0 ? 1e-12f : 1e12f;
    const Expected e = expected_product(m, 0, 1, x);
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      const std::vector<float> y = multiply(m, 0, 1, x, cpu, 1);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_NE(e.y[i], 0.0);
        ASSERT_LE(std::abs(static_cast<double>(y[i]) - e.y[i]), e.tolerance[i]) << shift << " " << i;
      }
    }
  }
}

TEST(FusedProduct, RefusesWrongArguments) {
  const Model m = make_model(reference::make_codec({}, 4), {kShapes[0]});
  FusedProduct product(*m.file, m.tables);
  const auto pool = make_thread_pool(1);
  const std::vector<float> x(8 * 280);
  std::vector<float> y(9 * 300);
  const auto code = [&](size_t tensor, uint32_t batch, size_t num_x, size_t num_y) {
    return product.multiply(tensor, batch, std::span(x).first(num_x), std::span(y).first(num_y), *pool, {}).code();
  };
  EXPECT_EQ(code(1, 1, 280, 300), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 280, 300), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 9, x.size(), y.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 2, 559, 600), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 2, 560, 599), StatusCode::kBufferTooSmall);
  EXPECT_EQ(code(0, 2, 560, 600), StatusCode::kOk);
}

// Damage anywhere gives the error that decoding gives.
TEST(FusedProduct, DamagedPayloadsFailLikeDecoding) {
  reference::CodecOptions options;
  options.trellis_bits = 3;
  const Model m = make_model(reference::make_codec(options, 4), {kShapes[1]});
  const CodedTensor coded = *m.file->load_coded(0, true);
  const auto pool = make_thread_pool(2);
  std::mt19937 rng(8);
  std::vector<float> y(129);
  std::vector<uint8_t> weights(129 * 200 * 4);
  const std::vector<float> x = random_vectors(200, 9);
  uint32_t failures = 0;
  for (int round = 0; round < 60; ++round) {
    std::vector<uint8_t> bytes = m.bytes;
    const CodedTensor::Tile& tile = coded.tiles[rng() % coded.tiles.size()];
    for (int i = 0; i <= round % 3; ++i)
      bytes[tile.offset + rng() % tile.size] ^= static_cast<uint8_t>(1 + rng() % 255);
    auto file = NwcFile::open(make_memory_reader(bytes));
    ASSERT_TRUE(file.ok());
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      TensorDecodeOptions o = at(cpu);
      for (const bool check_crc : {true, false}) {
        o.check_crc = check_crc;
        FusedProduct product(**file, m.tables);
        const Status decoded = decode_tensor_rows(**file, m.tables, 0, 0, 129, Dtype::kF32, weights, *pool, o);
        const Status fused = product.multiply(0, 1, x, y, *pool, o);
        EXPECT_EQ(fused.code(), decoded.code());
        EXPECT_EQ(fused.message(), decoded.message());
        EXPECT_TRUE(!check_crc || fused.code() == StatusCode::kChecksum);
        failures += !check_crc && !fused.ok();
      }
    }
  }
  EXPECT_GT(failures, 30u);
}

}  // namespace
}  // namespace nwc
