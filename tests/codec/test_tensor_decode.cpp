#include <gtest/gtest.h>

#include "runtime/base/half.h"
#include "runtime/codec/synthesis.h"
#include "runtime/codec/tensor_decode.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

using reference::TensorOptions;
using reference::TestTensor;
using Model = reference::TestModel;

Model make_model(const reference::CodecOptions& options, const std::vector<TensorOptions>& tensors) {
  const CodecRecord codec = reference::make_codec(options, 3);
  std::vector<TestTensor> made;
  uint32_t seed = 10;
  for (TensorOptions t : tensors) {
    t.row_classes = options.row_classes && t.name != "e";
    t.free_states = seed % 2 == 1;
    made.push_back(reference::make_tensor(codec, t, ++seed));
  }
  Result<Model> m = reference::make_model(codec, std::move(made));
  EXPECT_TRUE(m.ok()) << m.status().message();
  return std::move(m).value();
}

std::vector<uint8_t> decode(const Model& m, size_t tensor, CpuLevel cpu, Dtype dtype, uint64_t begin, uint64_t end,
                            uint32_t threads) {
  const uint64_t n = m.tensors[tensor].record.cols();
  std::vector<uint8_t> out((end - begin) * n * dtype_size(dtype), 0xaa);
  const auto pool = make_thread_pool(threads);
  TensorDecodeOptions options;
  options.cpu = cpu;
  const Status status = decode_tensor_rows(*m.file, m.tables, tensor, begin, end, dtype, out, *pool, options);
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

std::vector<float> as_floats(const std::vector<uint8_t>& bytes) {
  std::vector<float> f(bytes.size() / 4);
  std::memcpy(f.data(), bytes.data(), bytes.size());
  return f;
}

// What section 5.5 says, by the public parts: values -> chunks -> scales.
struct Expected {
  std::vector<float> weight, tolerance;
};
Expected expected_weights(const Model& m, size_t tensor) {
  const TestTensor& t = m.tensors[tensor];
  const uint64_t rows = t.record.rows(), n = t.record.cols();
  Expected e{std::vector<float>(rows * n), std::vector<float>(rows * n)};
  for (uint64_t rb = 0; rb * 16 < rows; ++rb) {
    std::vector<float> y(n * 16);
    const std::span<const int16_t> k = std::span(t.values).subspan(rb * n * 16, n * 16);
    synthesize_chunks(CpuLevel::kScalar, m.codec, k, t.level.data(), y);
    for (uint64_t col = 0; col < n; ++col) {
      float largest = 0;
      for (uint64_t i = 0; i < 16; ++i) largest = std::max(largest, std::abs(y[col * 16 + i]));
      for (uint64_t i = 0; i < 16 && rb * 16 + i < rows; ++i) {
        float scale = scale_from_code(t.scale_code[col], t.record.scale_base);
        if (t.record.row_scales) scale *= scale_from_code(t.row_scale_code[rb * 16 + i], t.record.row_scale_base);
        e.weight[(rb * 16 + i) * n + col] = y[col * 16 + i] * scale;
        e.tolerance[(rb * 16 + i) * n + col] = 0x1p-14f * scale * (1 + largest);
      }
    }
  }
  return e;
}

const std::vector<TensorOptions> kShapes = {
    {"a", {300, 280}, 128, 256, false, false}, {"b", {129, 200}, 64, 32, true, false},
    {"c", {1, 1}, 16, 32, false, false},       {"d", {17, 33}, 16, 32, true, true},
    {"e", {15}, 128, 256, false, false},       {"f", {40, 3, 11}, 32, 64, false, false}};

class EveryCodec : public testing::TestWithParam<int> {
 protected:
  static reference::CodecOptions options() {
    reference::CodecOptions o;
    if (GetParam() == 1) o.max_raw_bits = 4;
    if (GetParam() == 2) {
      o.width = 32;
      o.blocks = 2;
      o.activation = Activation::kSilu;
      o.layer_norm = true;
      o.f16 = true;
    }
    if (GetParam() >= 3) o.trellis_bits = GetParam() == 3 ? 3 : 8;
    o.row_classes = GetParam() >= 4;
    if (GetParam() == 5) o.max_raw_bits = 3;
    return o;
  }
};

TEST_P(EveryCodec, WeightsAndValuesOfEveryShapeAndCpuLevel) {
  const Model m = make_model(options(), kShapes);
  for (size_t t = 0; t < kShapes.size(); ++t) {
    const Expected expected = expected_weights(m, t);
    const uint64_t rows = m.tensors[t].record.rows();
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      const std::vector<float> f32 = as_floats(decode(m, t, cpu, Dtype::kF32, 0, rows, 1));
      for (size_t i = 0; i < f32.size(); ++i) {
        ASSERT_LE(std::abs(f32[i] - expected.weight[i]), expected.tolerance[i])
            << kShapes[t].name << " " << cpu_level_name(cpu) << " weight " << i;
      }
      const std::vector<uint8_t> f16 = decode(m, t, cpu, Dtype::kF16, 0, rows, 1);
      const std::vector<uint8_t> bf16 = decode(m, t, cpu, Dtype::kBf16, 0, rows, 1);
      for (size_t i = 0; i < f32.size(); ++i) {
        ASSERT_EQ(load_le<uint16_t>(&f16[2 * i]), f32_to_f16(f32[i]));
        ASSERT_EQ(load_le<uint16_t>(&bf16[2 * i]), f32_to_bf16(f32[i]));
      }
      const auto pool = make_thread_pool(2);
      TensorDecodeOptions o;
      o.cpu = cpu;
      std::vector<int16_t> values(m.tensors[t].values.size());
      ASSERT_TRUE(decode_tensor_values(*m.file, m.tables, t, values, *pool, o).ok());
      ASSERT_EQ(values, m.tensors[t].values);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Codecs, EveryCodec, testing::Range(0, 6));

TEST(TensorDecode, RowRangesAndThreadsGiveTheSameBytes) {
  const Model m = make_model({}, kShapes);
  const CpuLevel cpu = detect_cpu_level();
  for (const size_t t : {size_t{0}, size_t{1}}) {
    const uint64_t rows = m.tensors[t].record.rows();
    const size_t row_bytes = m.tensors[t].record.cols() * 2;
    const std::vector<uint8_t> whole = decode(m, t, cpu, Dtype::kF16, 0, rows, 1);
    EXPECT_EQ(decode(m, t, cpu, Dtype::kF16, 0, rows, 3), whole);
    for (const auto& [begin, end] : std::vector<std::pair<uint64_t, uint64_t>>{
             {0, 1}, {5, 5}, {127, 129}, {64, 128}, {rows - 1, rows}, {3, rows - 2}}) {
      const std::vector<uint8_t> part = decode(m, t, cpu, Dtype::kF16, begin, end, 2);
      EXPECT_EQ(part, std::vector<uint8_t>(whole.begin() + static_cast<ptrdiff_t>(begin * row_bytes),
                                           whole.begin() + static_cast<ptrdiff_t>(end * row_bytes)));
    }
  }
}

TEST(TensorDecode, CallbackReaderGivesTheSameBytes) {
  const Model m = make_model({}, {kShapes[0]});
  const auto read = [&](uint64_t offset, void* out, size_t size) {
    std::memcpy(out, m.bytes.data() + offset, size);
    return true;
  };
  auto file = NwcFile::open(make_callback_reader(m.bytes.size(), read));
  ASSERT_TRUE(file.ok());
  std::vector<uint8_t> out(300 * 280 * 4);
  const auto pool = make_thread_pool(1);
  ASSERT_TRUE(decode_tensor_rows(**file, m.tables, 0, 0, 300, Dtype::kF32, out, *pool, {}).ok());
  EXPECT_EQ(out, decode(m, 0, CpuLevel::kScalar, Dtype::kF32, 0, 300, 1));
}

TEST(TensorDecode, ColumnsOfScaleZeroAreExactlyZero) {
  Model m = make_model({}, {kShapes[0]});
  const TestTensor& t = m.tensors[0];
  ASSERT_NE(std::count(t.scale_code.begin(), t.scale_code.end(), 0), 0);
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    const std::vector<uint8_t> out = decode(m, 0, cpu, Dtype::kF16, 0, 300, 1);
    for (size_t i = 0; i < out.size() / 2; ++i) {
      if (t.scale_code[i % 280] == 0) {
        ASSERT_EQ(load_le<uint16_t>(&out[2 * i]), 0);
      }
    }
  }
}

TEST(TensorDecode, RefusesWrongArguments) {
  const Model m = make_model({}, {kShapes[0]});
  const auto pool = make_thread_pool(1);
  std::vector<uint8_t> out(300 * 280 * 4);
  const auto code = [&](size_t tensor, uint64_t begin, uint64_t end, Dtype dtype, size_t size) {
    return decode_tensor_rows(*m.file, m.tables, tensor, begin, end, dtype, MutableBytes(out).first(size), *pool, {})
        .code();
  };
  EXPECT_EQ(code(1, 0, 1, Dtype::kF32, out.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 301, Dtype::kF32, out.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 2, 1, Dtype::kF32, out.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 1, Dtype::kI32, out.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 0, 300, Dtype::kF32, out.size() - 1), StatusCode::kBufferTooSmall);
  EXPECT_EQ(code(0, 0, 300, Dtype::kF32, out.size()), StatusCode::kOk);
}

TEST(TensorDecode, ProgressCancels) {
  const Model m = make_model({}, {kShapes[0]});
  const auto pool = make_thread_pool(2);
  std::vector<uint8_t> out(300 * 280 * 4);
  TensorDecodeOptions options;
  uint64_t last = 0;
  options.progress = {[](void* user, uint64_t done, uint64_t total) {
                        *static_cast<uint64_t*>(user) = done;
                        return total == 6;
                      },
                      &last};
  EXPECT_TRUE(decode_tensor_rows(*m.file, m.tables, 0, 0, 300, Dtype::kF32, out, *pool, options).ok());
  EXPECT_EQ(last, 6u);
  options.progress.callback = [](void*, uint64_t, uint64_t) { return false; };
  EXPECT_EQ(decode_tensor_rows(*m.file, m.tables, 0, 0, 300, Dtype::kF32, out, *pool, options).code(),
            StatusCode::kCancelled);
}

// The lowest bad tile is named, whatever the number of threads.
TEST(TensorDecode, NamesTheFirstBadTile) {
  reference::CodecOptions codec_options;
  codec_options.varied = false;  // few escapes, whose words only the CRC-32 protects
  const Model m = make_model(codec_options, {kShapes[1]});
  const CodedTensor coded = *m.file->load_coded(0, true);
  std::vector<uint8_t> bytes = m.bytes;
  for (const size_t tile : {size_t{9}, size_t{4}, size_t{17}}) bytes[coded.tiles[tile].offset + 200] ^= 1;
  auto file = NwcFile::open(make_memory_reader(bytes));
  ASSERT_TRUE(file.ok());
  std::vector<uint8_t> out(129 * 200 * 2);
  for (const bool check_crc : {true, false}) {
    for (const uint32_t threads : {1u, 4u}) {
      const auto pool = make_thread_pool(threads);
      TensorDecodeOptions options;
      options.check_crc = check_crc;
      const Status s = decode_tensor_rows(**file, m.tables, 0, 0, 129, Dtype::kF16, out, *pool, options);
      EXPECT_FALSE(s.ok());
      EXPECT_NE(s.message().find("tensor 'b', tile 4:"), std::string::npos) << s.message();
    }
  }
}

class IdealBits : public testing::TestWithParam<uint32_t> {};

TEST_P(IdealBits, AreJustBelowThePayload) {
  TensorOptions shape;
  shape.shape = {256, 512};
  shape.wrapping = false;
  reference::CodecOptions options;
  options.max_raw_bits = 2;
  options.trellis_bits = GetParam();
  options.row_classes = GetParam() != 0;
  const Model m = make_model(options, {shape});
  const CodedTensor coded = *m.file->load_coded(0, true);
  double payload_bits = 0;
  for (const CodedTensor::Tile& t : coded.tiles) payload_bits += 8.0 * t.size;
  const double ideal = ideal_bits(m.codec, tile_grid(m.tensors[0].record), coded, m.tensors[0].values);
  EXPECT_LT(ideal, payload_bits);
  EXPECT_GT(ideal, payload_bits * 0.985);
}
INSTANTIATE_TEST_SUITE_P(Trellises, IdealBits, testing::Values(0, 3, 8));

}  // namespace
}  // namespace nwc
