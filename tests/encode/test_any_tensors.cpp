// Any tensors go in and come out: types, ranks and values that cannot be coded byte by byte, all others as matrices.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/decoder/decoder.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/encode/test_source.h"
#include "trainer/encode/encoder.h"
#include "trainer/inspect/decompress.h"
#include "trainer/plan/raw_warnings.h"

namespace nwc {
namespace {

using testing::MemorySource;
using testing::TemporaryFolder;

std::vector<uint8_t> some_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i * 37 + 11);
  return bytes;
}

/// Compresses, opens the file, decompresses to safetensors and opens that.
struct RoundTrip {
  TemporaryFolder folder;
  Status status;
  CompressReport report;
  std::vector<std::string> warnings;
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<ModelSource> back;

  explicit RoundTrip(const ModelSource& source, CompressOptions options = {}) { status = run(source, options); }

  Status run(const ModelSource& source, const CompressOptions& options) {
    Logger log;
    log.callback = [](void* user, LogLevel level, const char* text) {
      if (level == LogLevel::kWarning) static_cast<std::vector<std::string>*>(user)->push_back(text);
    };
    log.user = &warnings;
    NWC_ASSIGN_OR_RETURN(report,
                         compress_model(source, testing::synthetic_codec(), options, folder.file("x.nwc"), {}, log));
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(folder.file("x.nwc")));
    NWC_ASSIGN_OR_RETURN(file, NwcFile::open(std::move(reader)));
    const std::unique_ptr<Runner> runner = make_thread_pool(1);
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder, create_cpu_decoder(*file, *runner, CpuLevel::kScalar));
    NWC_TRY(decompress_model(*file, *decoder, std::nullopt, folder.file("y.safetensors"), {}));
    NWC_ASSIGN_OR_RETURN(back, open_model_source(folder.file("y.safetensors")));
    return {};
  }

  const TensorRecord& record(const std::string& name) const { return file->tensors()[*file->find(name)]; }
};

void expect_same(const ModelSource& a, const ModelSource& b, const std::string& name) {
  ASSERT_TRUE(a.find(name) && b.find(name)) << name;
  const SourceTensor& x = a.tensors()[*a.find(name)];
  const SourceTensor& y = b.tensors()[*b.find(name)];
  EXPECT_EQ(x.dtype, y.dtype) << name;
  EXPECT_EQ(x.shape, y.shape) << name;
  std::vector<uint8_t> p(x.num_bytes()), q(y.num_bytes());
  ASSERT_TRUE(a.read_raw(*a.find(name), p).ok() && b.read_raw(*b.find(name), q).ok()) << name;
  EXPECT_EQ(p, q) << name;
}

double relative_error(const ModelSource& a, const ModelSource& b, const std::string& name) {
  const std::vector<float> x = *a.read_f32(*a.find(name)), y = *b.read_f32(*b.find(name));
  EXPECT_EQ(x.size(), y.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double difference = double{x[i]} - double{y[i]};
    error += difference * difference;
    power += double{x[i]} * double{x[i]};
  }
  return error / power;
}

TEST(AnyTensors, EveryTypeRankAndValueComesBack) {
  MemorySource source;
  source.add_gaussian("weight", 64, 128, 1);
  for (uint8_t d = 0; d < kNumDtypes; ++d) {
    const auto dtype = static_cast<Dtype>(d);
    if (dtype <= Dtype::kBf16) continue;
    source.add(std::string("type ") + dtype_name(dtype), dtype, {16, 32}, some_bytes(dtype_bytes(dtype, 16 * 32)));
  }
  source.add("rank 9", Dtype::kF32, {1, 1, 1, 1, 1, 1, 1, 1, 4}, some_bytes(16));
  source.add("rank 64", Dtype::kF16, std::vector<uint64_t>(64, 1), some_bytes(2));
  source.add("scalar", Dtype::kBf16, {}, some_bytes(2));
  source.add("nothing", Dtype::kF6E2M3, {3, 0, 5}, {});
  std::vector<float> mask(77 * 77, 0);
  for (size_t i = 0; i < mask.size(); ++i) {
    if (i % 77 > i / 77) mask[i] = -std::numeric_limits<float>::infinity();
  }
  source.add_f32("mask", {77, 77}, mask);
  source.add_f32("nan", {2}, {1, std::numeric_limits<float>::quiet_NaN()});
  const RoundTrip trip(source);
  ASSERT_TRUE(trip.status.ok()) << trip.status.message();
  EXPECT_EQ(trip.back->tensors().size(), source.tensors().size());
  for (const SourceTensor& t : source.tensors()) {
    if (t.name != "weight") expect_same(source, *trip.back, t.name);
  }
  EXPECT_LT(relative_error(source, *trip.back, "weight"), 0.02);
}

TEST(AnyTensors, WhatIsNotFiniteIsSaidAndKept) {
  MemorySource source;
  source.add_gaussian("good", 64, 64, 1);
  std::vector<float> w = MemorySource::gaussian(64, 64, 2);
  w[70] = std::numeric_limits<float>::quiet_NaN();
  source.add_f32("bad", {64, 64}, w);
  const RoundTrip trip(source);
  ASSERT_TRUE(trip.status.ok()) << trip.status.message();
  expect_same(source, *trip.back, "bad");
  EXPECT_EQ(trip.record("good").storage, Storage::kCoded);
  ASSERT_FALSE(trip.warnings.empty());
  EXPECT_NE(trip.warnings[0].find("\"bad\" [64, 64] F32 (element 70 is NaN)"), std::string::npos) << trip.warnings[0];
}

// Beyond what f16 holds, and below what a scale can say: such weights are neither lost nor called so.
TEST(AnyTensors, WeightsOfAnySizeAreCodedOrKept) {
  for (const float size : {1e-36f, 1e-30f, 1e-20f, 1e-12f, 1e-9f, 1e-4f, 1e4f, 1e10f}) {
    std::vector<float> w = MemorySource::gaussian(64, 128, 2);
    for (float& v : w) v *= size;
    MemorySource source;
    source.add_f32("w", {64, 128}, w);
    const RoundTrip trip(source);
    ASSERT_TRUE(trip.status.ok()) << trip.status.message();
    if (size < 1e-15f) {
      expect_same(source, *trip.back, "w");
      ASSERT_FALSE(trip.warnings.empty());
      EXPECT_NE(trip.warnings[0].find("all smaller than 1e-16"), std::string::npos) << trip.warnings[0];
      continue;
    }
    EXPECT_EQ(trip.record("w").storage, Storage::kCoded);
    EXPECT_LT(trip.report.relative_error, 0.02) << size;
    EXPECT_NEAR(relative_error(source, *trip.back, "w"), trip.report.relative_error, 0.001) << size;
  }
}

TEST(AnyTensors, ChoosesTheMatrixNearestToASquare) {
  const std::pair<std::vector<uint64_t>, uint32_t> cases[] = {
      {{512, 64}, 1},
      {{7}, 1},
      {{}, 1},
      {{4, 128, 256}, 2},  // experts
      {{128, 768, 2048}, 2},
      {{768, 3, 16, 16}, 1},  // patches
      {{512, 512, 3, 3}, 1},
      {{1024, 512, 3}, 1},  // convolutions
      {{1, 50257, 768}, 2},
      {{4096, 32, 128}, 1},  // heads
      {{32, 128, 4096}, 2},
      {{64, 64, 64}, 2},  // of equal ones the largest
      {{8, 64, 64, 3, 3}, 2},
      {{2, 0, 9}, 1},
      {{1u << 20, 1u << 12, 16, 2}, 1},  // at most 2^31 - 1 rows
      {std::vector<uint64_t>(40, 1), 8},
  };
  for (const auto& [shape, split] : cases) EXPECT_EQ(choose_split(shape), split) << shape.size();
}

TEST(AnyTensors, ExpertsAndAdaptersAreCoded) {
  MemorySource source;
  source.add_f32("experts", {4, 64, 128}, MemorySource::gaussian(4 * 64, 128, 1));
  source.add_f32("more", {16, 2, 8, 32}, MemorySource::gaussian(256, 32, 2));
  source.add_f32("lora_A", {8, 512}, MemorySource::gaussian(8, 512, 3));
  source.add_f32("lora_B", {512, 8}, MemorySource::gaussian(512, 8, 4));
  CompressOptions options;
  options.bits = 5;
  const RoundTrip trip(source, options);
  ASSERT_TRUE(trip.status.ok()) << trip.status.message();
  EXPECT_NEAR(trip.report.bpw_coded, 5, 0.05);
  EXPECT_EQ(trip.report.coded_weights, trip.report.total_weights);
  EXPECT_EQ(trip.record("experts").rows(), 256u);
  EXPECT_EQ(trip.record("experts").cols(), 128u);
  EXPECT_EQ(trip.record("more").rows(), 256u);
  EXPECT_TRUE(trip.warnings.empty());
  for (const char* name : {"experts", "more", "lora_A", "lora_B"}) {
    EXPECT_LT(relative_error(source, *trip.back, name), 0.02) << name;
    EXPECT_EQ(trip.back->tensors()[*trip.back->find(name)].shape, source.tensors()[*source.find(name)].shape);
  }
}

TEST(AnyTensors, SaysWhatIsNotCoded) {
  MemorySource source;
  source.add_gaussian("weight", 64, 128, 1);
  source.add("numbers", Dtype::kF8E4M3, {64, 32}, some_bytes(64 * 32));
  source.add("zero", Dtype::kF32, {500, 500}, std::vector<uint8_t>(500 * 500 * 4, 0));
  source.add_gaussian("narrow", 4, 1024, 2);
  const RoundTrip trip(source);
  ASSERT_TRUE(trip.status.ok()) << trip.status.message();
  ASSERT_FALSE(trip.warnings.empty());
  const std::string expected =
      "% of the weights' bytes are not coded but stored as they are: tensor \"narrow\" [4, 1024] F32 (fewer than 8 "
      "rows); "
      "tensor \"numbers\" [64, 32] F8_E4M3 (F8_E4M3 is not coded)";
  EXPECT_NE(trip.warnings[0].find(expected), std::string::npos) << trip.warnings[0];
}

TEST(AnyTensors, ASizeLeavesRoomForWhatIsRaw) {
  MemorySource source;
  source.add_gaussian("weight", 256, 256, 1);
  source.add("raw", Dtype::kU8, {30000}, [] {
    std::mt19937 random(5);
    std::vector<uint8_t> bytes(30000);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    return bytes;
  }());
  CompressOptions options;
  options.file_bytes = 30000 + 40000;  // 4.7 bits for each weight
  const RoundTrip trip(source, options);
  ASSERT_TRUE(trip.status.ok()) << trip.status.message();
  EXPECT_LE(trip.report.file_bytes, options.file_bytes);
  EXPECT_GT(trip.report.file_bytes, options.file_bytes - 1000);
  EXPECT_LE(trip.report.passes, 4u);
}

}  // namespace
}  // namespace nwc
